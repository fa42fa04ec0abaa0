"""Pascal VOC's lists as folders of links: python eval/link_voc.py DATA_ROOT FOLDER TRAIN_LIST TEST_LIST [LABELS]

Prints the folder that `unseg evaluate` is to read: FOLDER, or DATA_ROOT where that is no VOC.
"""

import sys

from unseg.commands.link_voc import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
