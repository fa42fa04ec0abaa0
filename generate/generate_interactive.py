"""Makes the unlearnable edition of HQSeg-44K; settings come from the environment.

See scripts/generate_interactive.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["edition", "interactive", *sys.argv[1:]]))
