"""Makes the unlearnable edition of Pascal VOC 2012; settings come from the environment.

See scripts/generate_pascal.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["edition", "pascal", *sys.argv[1:]]))
