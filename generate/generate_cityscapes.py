"""Makes the unlearnable edition of Cityscapes; settings come from the environment.

See scripts/generate_cityscapes.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "cityscapes"]
    sys.exit(main())
