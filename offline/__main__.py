"""`python -m offline import|refresh|status|rollback|...`; `--help` lists all commands."""

import sys
from collections.abc import Sequence

from models.errors import InvalidSettings
from models.extras import needs_extras
from offline.commands.exits import EX_CONFIG, EX_INTERRUPTED


def main(arguments: Sequence[str]) -> int:
    try:
        with needs_extras("night"):
            from offline.commands.cli import main as run
        return run(arguments)
    except InvalidSettings as exc:
        print(f"offline: {exc}", file=sys.stderr)
        return EX_CONFIG
    except KeyboardInterrupt:  # while still importing
        return EX_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
