"""Makes the unlearnable edition of Car Parts; settings come from the environment.

See scripts/generate_carparts.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "carparts"]
    sys.exit(main())
