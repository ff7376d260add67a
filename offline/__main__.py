"""`python -m offline import|refresh|status`."""

import sys

from offline.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
