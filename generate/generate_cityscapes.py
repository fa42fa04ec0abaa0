"""The unlearnable edition of Cityscapes. Settings come from the environment: see scripts/generate_cityscapes.sh."""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["edition", "cityscapes", *sys.argv[1:]]))
