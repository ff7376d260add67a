"""A night that is stopped in the middle, goes on, is shared, or is refused; and how that ends."""

import io
import json
import re
import resource
import shlex
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from models.errors import (
    GatesFailed,
    InvalidInput,
    InvalidRelease,
    LeaseTaken,
    ReleaseMismatch,
    StoreFull,
    StoreUnavailable,
)
from models.lease import Lease
from models.reasoner.think import UserHistory, UserThoughts
from models.release.release import Release
from offline.check.gates import GateLimits
from offline.check.validate import validate
from offline.commands.exits import exit_of
from offline.disk.outcome import Outcome
from offline.disk.shards import part_file, read_rows, write_part
from offline.live.go_live import LiveSettings
from offline.plan.plan_file import newest_plan, read_plan
from offline.progress import Stopwatch, ThinkMeter, make_progress
from offline.refresh import night_lease, think_night
from offline.think.micro_batch import Think
from offline.think.think_shards import shards_of_process
from tests.fakes.offline_command import OfflineCommand
from tests.fakes.toy_night import NUM_USERS, NightWorld, user_name


def strike(number: int, blow: Callable[[], Any]) -> Callable[[Think], Think]:
    """Call `blow` at the n-th micro-batch."""

    def wrap(think: Think) -> Think:
        calls = []

        def thinking(users: Sequence[UserHistory]) -> list[UserThoughts]:
            calls.append(users)
            if len(calls) == number:
                blow()
            return think(users)

        return thinking

    return wrap


def run_out_of_memory() -> None:
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"
    )


def newest(world: NightWorld) -> Path:
    folder = newest_plan(world.out_dir)
    assert folder is not None
    return folder


# --- going on


def test_what_was_thought_before_running_out_of_memory_is_kept(world: NightWorld) -> None:
    world.wrap = strike(6, run_out_of_memory)
    with pytest.raises(MemoryError, match="out of memory while thinking"):
        world.night()
    assert len(world.thought) == 6 * 4
    world.wrap = lambda think: think
    summary = world.night(is_resumed=True)
    assert len(world.thought) == NUM_USERS - 5 * 4
    assert (summary["users"], summary["users_thought_now"]) == (NUM_USERS, NUM_USERS - 20)
    assert summary["tokens"] == 10 * NUM_USERS
    assert sorted(row.thoughts.user_id for row in read_rows(newest(world))) == [
        user_name(user) for user in range(NUM_USERS)
    ]
    assert not list(world.out_dir.rglob("*.lease"))
    assert not list(world.out_dir.rglob("*.segment"))


def test_a_resumed_night_keeps_the_settings_and_the_times_of_its_plan(world: NightWorld) -> None:
    world.wrap = strike(2, run_out_of_memory)
    with pytest.raises(MemoryError):
        world.night(paths=3)
    plan = read_plan(newest(world))
    world.wrap = lambda think: think
    summary = world.night(is_resumed=True, paths=9)
    assert (summary["run"], summary["generation"]) == (plan.run_id, plan.generation)
    assert {row.created_at for row in read_rows(newest(world))} == {plan.created_at}


def test_a_night_that_is_over_is_not_resumed(world: NightWorld) -> None:
    first = world.night()
    second = world.night(is_resumed=True)
    assert second["generation"] > first["generation"]


def test_without_being_asked_a_night_does_not_go_on_with_another(world: NightWorld) -> None:
    world.wrap = strike(2, run_out_of_memory)
    with pytest.raises(MemoryError):
        world.night()
    plan = read_plan(newest(world))
    world.wrap = lambda think: think
    assert world.night()["generation"] > plan.generation
    assert len(world.thought) == NUM_USERS


def test_a_night_that_was_overtaken_is_planned_anew(
    world: NightWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.wrap = strike(2, run_out_of_memory)
    with pytest.raises(MemoryError):
        world.night()
    stopped = newest(world)
    other = replace(world, out_dir=world.out_dir.with_name("other"), wrap=lambda think: think)
    other.store = world.store
    other.night()
    world.wrap = lambda think: think
    world.night(is_resumed=True)
    assert newest(world) != stopped
    assert "another night overtook night" in caplog.text


def test_killed_between_going_live_and_the_summary_a_night_ends_as_it_was(
    world: NightWorld,
) -> None:
    summary = world.night()
    (newest(world) / "summary.json").unlink()
    again = world.night(is_resumed=True)
    assert (again["generation"], again["epoch"]) == (summary["generation"], summary["epoch"])
    assert world.thought == []


def test_a_night_that_failed_a_gate_goes_live_with_a_reason_and_is_not_thought_again(
    world: NightWorld,
) -> None:
    live = LiveSettings(limits=GateLimits(coverage=1.5))
    with pytest.raises(GatesFailed, match=r"coverage is 1, expected at least 1\.5"):
        world.night(live=live)
    assert world.manifest() is None
    folder = newest(world)
    assert (folder / "report.html").exists()
    assert not (folder / "summary.json").exists()
    with pytest.raises(GatesFailed):
        world.night(is_resumed=True, live=live)
    summary = world.night(is_resumed=True, live=replace(live, force="a drill"))
    assert (summary["shards"], summary["forced"]) == (str(folder), "a drill")
    assert (summary["users_thought_now"], world.thought, summary["epoch"]) == (0, [], 1)
    assert json.loads((folder / "summary.json").read_text()) == summary


def test_a_night_that_failed_a_gate_is_replaced_by_a_new_one(world: NightWorld) -> None:
    with pytest.raises(GatesFailed):
        world.night(live=LiveSettings(limits=GateLimits(coverage=1.5)))
    failed = newest(world)
    summary = world.night()
    assert summary["shards"] != str(failed)
    assert (summary["refreshed"], summary["epoch"]) == (NUM_USERS, 1)


def test_another_release_does_not_go_on_with_a_plan(world: NightWorld) -> None:
    world.wrap = strike(2, run_out_of_memory)
    with pytest.raises(MemoryError):
        world.night()
    plan = read_plan(newest(world)).model_copy(update={"release": "toy@other"})
    (newest(world) / "plan.json").write_text(plan.encode())
    with pytest.raises(ReleaseMismatch, match="expected toy@other"):
        world.night(is_resumed=True)


def test_a_reasoner_that_fails_on_everybody_stops_the_night(world: NightWorld) -> None:
    def broken(_users: Sequence[UserHistory]) -> list[UserThoughts]:
        raise ValueError("no weights")

    world.wrap = lambda _think: broken
    with pytest.raises(InvalidRelease, match="the first 32 users all failed"):
        world.night()


# --- sharing a plan


def think_share(world: NightWorld, *, index: int, of: int) -> ThinkMeter:
    plan = read_plan(newest(world))
    return think_night(
        world.settings(),
        world.release,
        plan,
        progress=make_progress(Console(file=io.StringIO())),
        watch=Stopwatch(),
        load=world.load,
        index=index,
        of=of,
    )


def test_processes_share_a_plan_and_together_do_all_of_it(world: NightWorld) -> None:
    world.wrap = strike(1, run_out_of_memory)
    with pytest.raises(MemoryError):
        world.night()
    world.wrap = lambda think: think
    plan, folder = read_plan(newest(world)), newest(world)
    shares = [shards_of_process(plan, index=index, of=3) for index in range(3)]
    assert sorted(shard for each in shares for shard in each) == list(range(len(plan.shards)))
    world.thought.clear()
    think_share(world, index=0, of=3)
    think_share(world, index=1, of=3)
    with pytest.raises(InvalidInput, match=r"1 of 4 shards are missing \(the first: 2\)"):
        validate(folder, plan, world.release.catalog)
    think_share(world, index=2, of=3)
    assert sorted(world.thought) == [user_name(user) for user in range(NUM_USERS)]
    assert validate(folder, plan, world.release.catalog)["users"] == NUM_USERS


class Ahead:
    """Thinks about the announced micro-batches only, and only in their order."""

    def __init__(self, think: Think) -> None:
        self.num_expected: list[int] = []
        self.is_closed = False
        self._think = think
        self._expected: list[Sequence[UserHistory]] = []

    def expect(self, batches: Sequence[Sequence[UserHistory]]) -> None:
        self.num_expected.append(len(batches))
        self._expected = list(batches)

    def __call__(self, users: Sequence[UserHistory]) -> list[UserThoughts]:
        assert self._expected.pop(0) == users
        return self._think(users)

    def close(self) -> None:
        self.is_closed = True


def test_an_engine_that_thinks_ahead_is_told_once_what_is_left(world: NightWorld) -> None:
    world.wrap = strike(5, run_out_of_memory)
    with pytest.raises(MemoryError):
        world.night()
    world.wrap = lambda think: think
    ahead = Ahead(world.load(world.release, world.settings()))
    world.load = lambda *_: ahead  # type: ignore[method-assign]
    assert world.night(is_resumed=True)["failed"] == 0
    assert (ahead.num_expected, ahead.is_closed) == ([6], True)


def test_two_jobs_are_never_at_work_on_one_shard(world: NightWorld) -> None:
    world.wrap = strike(4, run_out_of_memory)
    with pytest.raises(MemoryError):
        world.night()
    with Lease.take(newest(world) / "part-00001.lease"), pytest.raises(LeaseTaken):
        world.night(is_resumed=True)
    assert not part_file(newest(world), 1).exists()


def test_two_nights_are_never_at_work_in_one_folder(world: NightWorld) -> None:
    with night_lease(world.out_dir), pytest.raises(LeaseTaken, match=r"night\.lease"):
        world.night()
    world.night()


def test_a_job_that_was_overtaken_writes_nothing_more(world: NightWorld) -> None:
    """Another host's job has the higher epoch, if the hosts share no locks."""

    def overtake() -> None:
        (newest(world) / "part-00000.lease").write_bytes(b"00000000000000000009 elsewhere")
        sizes.append((newest(world) / "part-00000.segment").stat().st_size)

    sizes: list[int] = []
    world.wrap = strike(2, overtake)
    with pytest.raises(LeaseTaken, match="another job took over"):
        world.night()
    assert (newest(world) / "part-00000.segment").stat().st_size == sizes[0]
    assert not part_file(newest(world), 0).exists()


# --- users lost, doubled or swapped


@pytest.mark.parametrize("spoil", ["lose", "double", "swap"])
def test_a_user_lost_doubled_or_of_another_history_is_noticed(
    world: NightWorld, spoil: str
) -> None:
    world.night()
    plan, part = read_plan(newest(world)), part_file(newest(world), 0)
    rows = list(read_rows(newest(world)))[:12]
    outcome = Outcome(refreshed=12)
    changed = {
        "lose": rows[1:],
        "double": [*rows, rows[0]],
        "swap": [rows[0]._replace(digest="another"), *rows[1:]],
    }
    write_part(part, changed[spoil], outcome)
    with pytest.raises(InvalidInput, match=r"part-00000\.parquet: .*(lost|duplicate)"):
        validate(newest(world), plan, world.release.catalog)


# --- how it ends


@pytest.mark.parametrize(
    ("exc", "code", "text"),
    [
        (MemoryError(), 75, "out of memory"),
        (OSError(28, "No space left on device", "/x/part"), 75, "/x/part: No space left"),
        (LeaseTaken("held"), 75, "held"),
        (StoreFull("full"), 75, "full; the live generation is unchanged: make room"),
        (StoreUnavailable("away"), 75, "away"),
    ],
)
def test_what_can_go_on_ends_with_75(exc: Exception, code: int, text: str) -> None:
    ending = exit_of(exc)
    assert ending is not None
    assert (ending.code, ending.is_resumable) == (code, True)
    assert text in ending.reason


def test_a_bug_is_no_way_to_end() -> None:
    assert exit_of(AssertionError("bug")) is None


@pytest.fixture
def state(state: Path, data_dir: Path, call: OfflineCommand) -> Path:
    """An embedded server with the histories of the toy world."""
    assert call("import", "--data", data_dir)[0] == 0
    return state


def resuming(err: str) -> list[str]:
    """The words of the command that the last line of stderr names."""
    line = err.strip().splitlines()[-1]
    assert line.startswith("offline: ")
    found = re.search(r"; continue with: python -m offline (.*)$", line)
    assert found is not None, line
    return shlex.split(found[1])


@pytest.mark.system
def test_sigterm_ends_a_night_with_75_and_the_command_that_goes_on(
    state: Path, release: Release, call: OfflineCommand
) -> None:
    is_done = threading.Event()

    def terminate_once_a_batch_is_safe() -> None:
        while not is_done.wait(0.002):
            segments = [file.stat().st_size for file in state.rglob("*.segment")]
            if segments and max(segments) > 500:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return

    watching = threading.Thread(target=terminate_once_a_batch_is_safe)
    watching.start()
    code, out, err = call("refresh", "--release", release.directory, "--paths", 32, "--width", 30)
    is_done.set()
    watching.join()
    assert (code, out) == (75, "")
    assert "offline: stopped by SIGTERM" in err.strip().splitlines()[-1]
    code, out, _ = call(*resuming(err))
    summary = json.loads(out)
    assert (code, summary["epoch"]) == (0, 1)
    assert 0 < summary["users_thought_now"] < NUM_USERS


def test_a_full_disk_ends_a_night_with_75_and_it_goes_on_once_there_is_room(
    state: Path, release: Release, call: OfflineCommand
) -> None:
    here = ["--release", release.directory]
    assert call("plan", *here, "--paths", 32, "--width", 30)[0] == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        code, out, err = call("refresh", *here, "--paths", 32, "--width", 30, "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out) == (75, "")
    assert re.search(r"\.segment: File too large; .* make room; continue", err.splitlines()[-1])
    assert not list(state.rglob("*.new"))
    assert not list(state.rglob("part-*.parquet"))
    code, out, _ = call(*resuming(err))
    assert (code, json.loads(out)["epoch"]) == (0, 1)


def test_the_stages_one_by_one_are_a_night(
    state: Path, release: Release, call: OfflineCommand
) -> None:
    here = ["--release", release.directory]
    code, out, err = call("refresh", *here, "--dry-run", "--price-per-hour", "2.5")
    found = json.loads(out)
    assert (code, found["users_to_think_about"], found["sample_users"]) == (0, 40, 40)
    assert "device hours" in err
    assert not list((state / "generations").glob("*"))
    code, out, _ = call("think", *here)
    assert code == 78
    code, out, _ = call("plan", *here, "--paths", 8, "--width", 4)
    plan = json.loads(out)
    assert (code, plan["users_to_think_about"]) == (0, NUM_USERS)
    code, out, err = call("validate", *here)
    assert code == 78
    assert "python -m offline think" in err
    code, out, err = call("think", *here, "--price-per-hour", 3)
    assert (code, json.loads(out)["run"]) == (0, plan["run"])
    shown = " ".join(err.replace("\n", " ").split())
    assert re.search(r"users/s .* left .* tokens/s, .*% of paths closed, cost 0\.\d\d", shown)
    code, out, _ = call("validate", *here, "--generation", plan["generation"])
    assert (code, json.loads(out)["users"] > 20) == (0, True)
    code, out, err = call("refresh", *here, "--resume", "--price-per-hour", 3600)
    summary = json.loads(out)
    assert (code, summary["run"], summary["epoch"]) == (0, plan["run"], 1)
    assert summary["users_thought_now"] == 0
    assert summary["cost"] == pytest.approx(summary["think_s"], abs=1e-3)  # of the other process
    assert summary["users_per_s"] == pytest.approx(NUM_USERS / summary["think_s"], rel=0.01)
    assert sum(batch["users"] for batch in summary["slowest_batches"]) == NUM_USERS
    assert "hours of one process, cost" in err
    assert "gate legality       passed: 1, expected 1, no exception" in err
    assert f"{summary['shards']}/report.html" in err
    code, out, _ = call("refresh", *here, "--paths", 8, "--width", 4)
    assert json.loads(out)["carried"] == summary["users"]
    code, out, _ = call("retry-dead", *here)
    assert (code, json.loads(out)) == (0, {"users_due": 0})


def test_dead_letters_are_tried_again_as_a_delta(
    state: Path,
    release: Release,
    call: OfflineCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call("refresh", "--release", release.directory, "--paths", 8, "--width", 4)
    folder = newest_plan(state / "generations")
    assert folder is not None
    (folder / "failed.jsonl").write_text('{"user_id": "user-04", "reason": "bad luck"}\n')
    asked = ("--release", release.directory, "--paths", 9, "--width", 4)
    code, out, err = call("retry-dead", *asked)
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["layer"], summary["users_due"]) == ("delta", 1)


def test_another_job_in_the_folder_is_one_line_and_exit_75(
    state: Path, release: Release, call: OfflineCommand
) -> None:
    with night_lease(state / "generations"):
        code, _, err = call("refresh", "--release", release.directory)
    assert code == 75
    assert "another job is running here" in err.strip().splitlines()[-1]
    assert resuming(err)[0] == "refresh"
