"""Makes the unlearnable edition of CamVid; settings come from the environment.

See scripts/generate_camvid.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["edition", "camvid", *sys.argv[1:]]))
