"""The unlearnable edition of COCO 2017. Settings come from the environment: see scripts/generate_coco.sh."""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["edition", "coco", *sys.argv[1:]]))
