"""The unlearnable edition of Pascal VOC 2012. Settings come from the environment: see scripts/generate_pascal.sh."""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["edition", "pascal", *sys.argv[1:]]))
