"""Limit a process to a share of a core, so that one generator can send ten times its capacity.

Knows cgroups and signals. Knows nothing of the process.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD_US = 10_000  # a tenth of the budget: with the usual 100 ms, every answer would wait for one
_WEIGHT_V1, _WEIGHT_V2 = "262144", "10000"  # the maximum: other processes do not take the quota
_SIGNAL_PERIOD_S = 0.02


@contextmanager
def hold(pid: int, share: float) -> Iterator[str]:
    """Limit a running process to `share` of a core; yield a text with the method.

    The method is the CPU quota of a cgroup. If we may not make a cgroup, the process is stopped and
    continued in turns.
    """
    if (group := _make_group(share)) is None:
        with _by_signals(pid, share):
            yield f"stopped and continued every {1000 * _SIGNAL_PERIOD_S:.0f} ms"
        return
    (group / "cgroup.procs").write_text(str(pid))
    try:
        yield f"cgroup quota, period {_PERIOD_US // 1000} ms"
    finally:
        with suppress(OSError):
            (group.parent / "cgroup.procs").write_text(str(pid))
            group.rmdir()


def _make_group(share: float) -> Path | None:
    """Make a cgroup with this quota, version 1 or 2; None without the permission."""
    name, quota = f"think-ahead-{os.getpid()}", str(int(share * _PERIOD_US))
    for root, values in (
        (
            _CGROUPS / "cpu",
            {
                "cpu.cfs_period_us": str(_PERIOD_US),
                "cpu.cfs_quota_us": quota,
                "cpu.shares": _WEIGHT_V1,
            },
        ),
        (_CGROUPS, {"cpu.max": f"{quota} {_PERIOD_US}", "cpu.weight": _WEIGHT_V2}),
    ):
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for file, value in values.items():
                (group / file).write_text(value)
            return group
        except OSError:
            with suppress(OSError):
                group.rmdir()
    return None


@contextmanager
def _by_signals(pid: int, share: float) -> Iterator[None]:
    over = threading.Event()
    turns = threading.Thread(target=_take_turns, args=(pid, share, over))
    turns.start()
    try:
        yield
    finally:
        over.set()
        turns.join()


def _take_turns(pid: int, share: float, over: threading.Event) -> None:
    try:
        while not over.is_set():
            os.kill(pid, signal.SIGCONT)
            time.sleep(share * _SIGNAL_PERIOD_S)
            os.kill(pid, signal.SIGSTOP)
            time.sleep((1 - share) * _SIGNAL_PERIOD_S)
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
