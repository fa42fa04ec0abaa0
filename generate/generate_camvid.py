"""Makes the unlearnable edition of CamVid; settings come from the environment.

See scripts/generate_camvid.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "camvid"]
    sys.exit(main())
