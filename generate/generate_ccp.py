"""Makes the unlearnable edition of CCP; settings come from the environment.

See scripts/generate_ccp.sh.
"""

import sys

from unseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["edition", "ccp"]
    sys.exit(main())
