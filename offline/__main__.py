"""`python -m offline import|refresh|status|rollback|...`; `--help` lists all commands."""

import sys

from models.errors import InvalidSettings
from models.extras import needs_extras
from offline.commands.exits import EX_CONFIG

if __name__ == "__main__":
    try:
        with needs_extras("night"):
            from offline.commands.cli import main
        sys.exit(main(sys.argv[1:]))
    except InvalidSettings as exc:
        print(f"offline: {exc}", file=sys.stderr)
        sys.exit(EX_CONFIG)
    except KeyboardInterrupt:  # while still importing
        sys.exit(130)
