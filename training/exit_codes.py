"""Exit codes of the commands of training, by the error that ends them."""

import sys
from collections.abc import Callable

from models.errors import (
    GatesFailed,
    LeaseTaken,
    ManifestConflict,
    StoreUnavailable,
    ThinkAheadError,
)

_DONE, _GATE_FAILED, _TRY_LATER, _BAD_INPUT = 0, 65, 75, 78


def run_command(name: str, run: Callable[[], None]) -> int:
    """Run a command, print its error as one line behind its name, and return the exit code."""
    try:
        run()
    except GatesFailed as exc:
        return _fail(name, exc, _GATE_FAILED)
    except (LeaseTaken, ManifestConflict, StoreUnavailable, OSError) as exc:
        return _fail(name, exc, _TRY_LATER)
    except ThinkAheadError as exc:
        return _fail(name, exc, _BAD_INPUT)
    return _DONE


def _fail(name: str, exc: Exception, code: int) -> int:
    print(f"{name}: {' '.join(str(exc).split())}", file=sys.stderr)
    return code
