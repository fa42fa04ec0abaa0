"""Every class's IoU of the runs in OUT/results.json, conditions beside each other: python eval/class_table.py OUT"""

import sys

from unseg.commands.class_table import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
