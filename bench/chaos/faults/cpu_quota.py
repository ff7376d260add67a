"""A process held to a share of one core, so that a generator beside it can ask for ten times more.

Knows cgroups and signals. Knows nothing of what the process does.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD_US = 10_000  # a tenth of the budget: at the usual 100 ms every answer would wait for one
_WEIGHT_V1, _WEIGHT_V2 = "262144", "10000"  # the most: what the quota leaves, nobody else takes
_SIGNAL_PERIOD_S = 0.02


@contextmanager
def hold(pid: int, share: float) -> Iterator[str]:
    """Hold a running process to `share` of a core; says how.

    By a cgroup's CPU quota where we may make one, else by stopping and continuing it in turns.
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
    """A new group with that quota, version 1 or 2; None where that is not ours to do."""
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
