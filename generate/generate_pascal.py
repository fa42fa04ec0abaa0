"""Makes the unlearnable edition of Pascal VOC 2012; settings come from the environment.

See scripts/generate_pascal.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "pascal"]
    sys.exit(main())
