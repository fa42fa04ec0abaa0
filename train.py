"""Bilevel training, from a checkout: `python train.py --help`. The same as `unseg train`."""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
