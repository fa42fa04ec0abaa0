"""Makes the unlearnable edition of ADE20K; settings come from the environment.

See scripts/generate_ade20k.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "ade20k"]
    sys.exit(main())
