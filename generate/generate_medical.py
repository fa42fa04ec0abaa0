"""Makes the unlearnable edition of chest X-rays and Kvasir-SEG; settings come from the environment.

See scripts/generate_medical.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "medical"]
    sys.exit(main())
