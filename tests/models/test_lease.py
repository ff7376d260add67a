"""One writer at a time, also where locks do not reach."""

import os
import signal
from pathlib import Path

import pytest

from models.errors import LeaseTaken
from models.lease import Lease


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.lease"


def test_a_lease_is_held_by_one_and_leaves_nothing_behind(file: Path) -> None:
    with Lease.take(file) as lease:
        lease.check()
        with pytest.raises(LeaseTaken, match=r"a\.lease: another job is running here"):
            Lease.take(file)
        lease.check()
    assert not file.exists()
    with Lease.take(file):
        pass


def test_a_block_that_fails_lets_go_and_the_next_epoch_is_higher(file: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lease.take(file) as lease:
        _ = 1 // (lease.epoch - 1)
    with Lease.take(file) as lease:
        assert lease.epoch == 2


@pytest.mark.system
def test_the_lock_dies_with_its_holder(file: Path) -> None:
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        Lease.take(file)
        os.write(writing, b"!")
        signal.pause()
    os.read(reading, 1)
    with pytest.raises(LeaseTaken):
        Lease.take(file)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with Lease.take(file) as lease:
        assert lease.epoch == 2


def on_another_host(file: Path) -> Lease:
    """Take a lease as a host that cannot see this host's lock: it sees a copy of the file."""
    there = file.with_suffix(".there")
    there.write_bytes(file.read_bytes() if file.exists() else b"")
    lease = Lease.take(there)
    file.write_bytes(there.read_bytes())
    return lease


def test_a_holder_that_was_overtaken_finds_out_before_it_writes(file: Path) -> None:
    lease = Lease.take(file)
    other = on_another_host(file)
    assert other.epoch == lease.epoch + 1
    with pytest.raises(LeaseTaken, match="another job took over"):
        lease.check()


def test_a_holder_that_slept_through_two_others_does_not_take_their_epoch_for_its_own(
    file: Path,
) -> None:
    """Once the second has finished and removed the file, the third starts at epoch 1 as the first
    did."""
    sleeper = Lease.take(file)
    file.unlink()
    with pytest.raises(LeaseTaken):
        sleeper.check()
    third = on_another_host(file)
    assert third.epoch == sleeper.epoch
    with pytest.raises(LeaseTaken):
        sleeper.check()


def test_a_file_that_nobody_of_ours_wrote_is_taken_over(file: Path) -> None:
    file.write_bytes(b"junk")
    with Lease.take(file) as lease:
        lease.check()
        assert lease.epoch == 1
