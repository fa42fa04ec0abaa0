"""Makes the unlearnable edition of NWPU VHR-10, WHU and SSDD; settings come from the environment.

See scripts/generate_remote.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["edition", "remote", *sys.argv[1:]]))
