"""Makes the unlearnable edition of NWPU VHR-10, WHU and SSDD; settings come from the environment.

See scripts/generate_remote.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "remote"]
    sys.exit(main())
