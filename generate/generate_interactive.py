"""Makes the unlearnable edition of HQSeg-44K; settings come from the environment.

See scripts/generate_interactive.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "interactive"]
    sys.exit(main())
