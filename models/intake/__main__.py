"""`python -m models.intake FILE... --out DIR`: read data as people have them."""

import sys

from models.intake.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
