"""Makes the unlearnable edition of COCO 2017; settings come from the environment.

See scripts/generate_coco.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "coco"]
    sys.exit(main())
