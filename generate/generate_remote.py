"""The unlearnable edition of NWPU VHR-10, WHU and SSDD. Settings come from the environment: see scripts/generate_remote.sh."""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["edition", "remote", *sys.argv[1:]]))
