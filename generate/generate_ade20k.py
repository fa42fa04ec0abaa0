"""Makes the unlearnable edition of ADE20K; settings come from the environment.

See scripts/generate_ade20k.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["edition", "ade20k", *sys.argv[1:]]))
