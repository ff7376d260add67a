"""Exit codes with their error line, and signals as exceptions.

  0  done
 65  a gate failed; the generation before stays live
 75  stopped and can continue: the store is away, another job is running, the disk is full,
     memory ran out, SIGTERM
 78  fix the input
130  Ctrl-C
"""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple, NoReturn

from models.errors import (
    GatesFailed,
    InvalidInput,
    InvalidRelease,
    LeaseTaken,
    ManifestConflict,
    StoreFull,
    StoreUnavailable,
)

EX_DATAERR = 65
EX_TEMPFAIL = 75
EX_CONFIG = 78
EX_INTERRUPTED = 130

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Terminated(KeyboardInterrupt):
    """SIGTERM. A KeyboardInterrupt, since asyncio stops other exceptions in its callbacks."""


class Exit(NamedTuple):
    """End of a run."""

    code: int
    reason: str
    is_resumable: bool  # the work can continue where it stopped


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise at once, inside asyncio too.

    asyncio would cancel the running task instead, and redis-py 8.1 can lose a cancellation.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = [
        (number, signal.signal(number, handler))
        for number, handler in ((signal.SIGINT, interrupt), (signal.SIGTERM, terminate))
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def exit_of(exc: BaseException) -> Exit | None:
    """Return how a run with this exception ends; None for a bug."""
    match exc:
        case Terminated():
            return Exit(EX_TEMPFAIL, "stopped by SIGTERM; the live generation is unchanged", True)
        case KeyboardInterrupt():
            reason = "interrupted; the live generation is unchanged, and the command can run again"
            return Exit(EX_INTERRUPTED, reason, True)
        case InvalidInput() | InvalidRelease():
            return Exit(EX_CONFIG, str(exc), False)
        case GatesFailed():
            return Exit(EX_DATAERR, str(exc), False)
        case ManifestConflict():
            return Exit(EX_TEMPFAIL, str(exc), False)
        case StoreFull():
            return Exit(EX_TEMPFAIL, f"{exc}; the live generation is unchanged: make room", True)
        case StoreUnavailable() | LeaseTaken():
            return Exit(EX_TEMPFAIL, str(exc), True)
        case MemoryError():
            reason = str(exc) or "out of memory"
            return Exit(EX_TEMPFAIL, f"{reason}; finished thoughts are kept", True)
        case OSError():
            place = exc.filename or "input or output"
            full = "; finished thoughts are kept: make room" if exc.errno in _FULL else ""
            return Exit(EX_TEMPFAIL, f"{place}: {exc.strerror or exc}{full}", True)
    return None
