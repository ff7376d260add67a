"""How a run ends: exit codes, the one line that goes with each, and signals as exceptions.

0 done; 75 stopped, and it can go on (the store is away, another job is at work, the disk is full,
memory ran out, SIGTERM); 65 a gate failed, so that what was live stays live; 78 fix the input; 130
Ctrl-C.
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
    """SIGTERM. A KeyboardInterrupt, as asyncio lets nothing else through from its callbacks."""


class Exit(NamedTuple):
    """is_resumable: the same work may go on where it stopped."""

    code: int
    reason: str
    is_resumable: bool


@contextmanager
def signals_raise() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise where they strike, inside of asyncio too.

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
    """How a run that raised this ends; None for a bug."""
    match exc:
        case Terminated():
            return Exit(EX_TEMPFAIL, "stopped by SIGTERM; what was live stays live", True)
        case KeyboardInterrupt():
            reason = "interrupted; what was live stays live, and it can be run again"
            return Exit(EX_INTERRUPTED, reason, True)
        case InvalidInput() | InvalidRelease():
            return Exit(EX_CONFIG, str(exc), False)
        case GatesFailed():
            return Exit(EX_DATAERR, str(exc), False)
        case ManifestConflict():
            return Exit(EX_TEMPFAIL, str(exc), False)
        case StoreFull():
            return Exit(EX_TEMPFAIL, f"{exc}; what was live stays live: make room", True)
        case StoreUnavailable() | LeaseTaken():
            return Exit(EX_TEMPFAIL, str(exc), True)
        case MemoryError():
            reason = str(exc) or "out of memory"
            return Exit(EX_TEMPFAIL, f"{reason}; what was thought is kept", True)
        case OSError():
            place = exc.filename or "input or output"
            full = "; what was thought is kept: make room" if exc.errno in _FULL else ""
            return Exit(EX_TEMPFAIL, f"{place}: {exc.strerror or exc}{full}", True)
    return None
