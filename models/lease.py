"""One writer at a time: a lock that ends with its process, and a fencing epoch that outlives it.

The lock (`flock`) separates two jobs on one machine. Some shared file systems do not carry locks
from host to host, so two jobs may both hold it. The later one has the higher epoch; the earlier one
checks the epoch before its next write and stops. Knows nothing of plans.
"""

import fcntl
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from models.errors import LeaseTaken

_EPOCH_DIGITS = 20


class Lease:
    """A lease, held until its `with` block ends. A block without an error removes the file."""

    def __init__(self, file: Path, descriptor: int, *, epoch: int) -> None:
        self.epoch = epoch
        self._file = file
        self._descriptor = descriptor
        # Fixed length, so that a single write overwrites the mark of the last holder. The second
        # part distinguishes two holders of one epoch, which is possible after the file's removal.
        self._mark = f"{epoch:0{_EPOCH_DIGITS}d} {uuid.uuid4().hex}".encode()
        os.pwrite(descriptor, self._mark, 0)
        os.fsync(descriptor)

    @classmethod
    def take(cls, file: Path) -> "Lease":
        """Take the lease. Raises LeaseTaken at once if another process holds it."""
        while True:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_still_there(file, descriptor):
                    return cls(file, descriptor, epoch=_read_epoch(descriptor) + 1)
            except BlockingIOError as exc:
                os.close(descriptor)
                raise LeaseTaken(f"{file}: another job is running here, this one stops") from exc
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last holder removed it between our opening and locking

    def check(self) -> None:
        """Raise LeaseTaken if another process has taken the lease. Call it before every write."""
        try:
            mark = self._file.read_bytes()
        except FileNotFoundError:
            mark = b""
        if mark != self._mark:
            raise LeaseTaken(f"{self._file}: another job took over, this one stops")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._file.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_held(file: Path) -> bool:
    """Tell if a process holds the lease, without taking it."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_still_there(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_epoch(descriptor: int) -> int:
    """Return the last epoch; 0 for a new file or one without an epoch."""
    digits = os.pread(descriptor, _EPOCH_DIGITS, 0)
    return int(digits) if digits.isdigit() else 0
