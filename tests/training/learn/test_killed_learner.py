"""A learner that is killed anywhere learns the same from the same log."""

import os
import signal
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from models.release.live import load_live
from models.release.release import Release
from models.store.contract import Logged, order_of
from tests.fakes.toy_learner import ToyWork, finish, pages, toy_events, weights_of

NUM_EVENTS = 40
PAGE = 6  # events a tick


def follow(work: ToyWork, events: list[Logged]) -> bytes:
    """Learn what the log lacks, tick by tick, as a process does; return all weights."""
    follower = work.follower()
    follower.start()
    rest = [each for each in events if order_of(each.entry) > order_of(follower.log.end)]
    for page in pages(rest, PAGE):
        follower.log.append(page)
        follower.take(page)
        follower.publish()
    finish(follower)
    return weights_of(follower)


def killed(run: Callable[[], object], *, after_s: float) -> bool:
    """Run in a process that the kernel ends after so much CPU time; tell if it came to that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # one thread computes
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_VIRTUAL, after_s)
        try:
            run()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def check_points(release: Release, folder: Path, *, num: int) -> None:
    events = toy_events(release.catalog, NUM_EVENTS)
    started = os.times().user
    whole = follow(ToyWork(release, folder / "whole"), events)
    cpu_s = os.times().user - started
    rng = np.random.default_rng(0)
    num_killed = 0
    for point in range(num):
        work = ToyWork(release, folder / str(point))
        for _ in range(1 + point % 3):  # some are killed again and again
            after_s = float(rng.uniform(0.02, max(cpu_s, 0.1)))
            num_killed += killed(partial(follow, work, events), after_s=after_s)
        assert follow(work, events) == whole, f"point {point}"
        pointer = work.live.pointer()
        assert pointer is not None
        assert pointer.watermark == events[-1].entry
        load_live(work.live, pointer.version)
    assert num_killed > num / 2


def test_three_killed_learners_learn_the_same(release: Release, tmp_path: Path) -> None:
    check_points(release, tmp_path, num=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_killed_learners_learn_the_same(release: Release, tmp_path: Path) -> None:
    check_points(release, tmp_path, num=50)
