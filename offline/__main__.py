"""`python -m offline import|refresh|status|rollback|...`; `--help` lists all commands."""

import sys

if __name__ == "__main__":
    try:
        from offline.cli import main

        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # while still importing
        sys.exit(130)
