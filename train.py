"""Bilevel training, from a checkout: `python train.py --help`. The same as `unseg train`."""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    sys.exit(main())
