"""Nights killed with -9 at seeded points, each in a process of its own.

    python -m tests.fakes.killed_nights RELEASE FOLDER NUM_KILLS SEED

The world is imported and the reasoner loaded once; every run is a fork of that. A run dies at the
n-th line that it executes of `offline/`, or in the middle of the n-th write to a segment. The
result is one JSON line, which the test reads.
"""

import asyncio
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from models.reasoner.think import UserHistory, UserThoughts
from models.release.release import Release
from models.store.events import Event
from models.store.manifest import Manifest
from offline.progress import make_progress
from offline.refresh import load_think, refresh
from offline.settings import RefreshSettings
from offline.think.micro_batch import Think
from tests import ROOT
from tests.fakes.memory_store import MemoryStore
from tests.fakes.toy import toy_histories

NUM_USERS, NUM_CHANGED = 48, 36
POISON = "user-05"
NOW_MS = 1_700_000_000_000
_WITH_TIMES = {"summary.json", "report.html", "metrics.prom"}
_OFFLINE = str(ROOT / "offline")

Trace = Callable[[FrameType, str, Any], Any]


@dataclass(frozen=True)
class World:
    release: Release
    folder: Path
    think: Think

    def settings(self, out_dir: Path) -> RefreshSettings:
        return RefreshSettings(
            self.release.directory,
            out_dir,
            paths=3,
            width=4,
            is_resumed=True,
            micro_batch=6,
            shard_batches=2,
        )


def fill(world: World, store: MemoryStore, out_dir: Path, *, night: int) -> None:
    """Histories; in the second night a newer event of most users, and the first night's manifest.

    A store that lives in the process dies with it, like one that is wiped between two runs.
    """
    items = world.release.catalog.item_ids
    histories = toy_histories(world.release.catalog, num_users=NUM_USERS)
    for user, rows in enumerate(histories):
        events = [Event(items[row], 1 + at, str(at)) for at, row in enumerate(rows)]
        if night == 2 and user < NUM_CHANGED:
            events.append(Event(items[user], 100, "new"))
        asyncio.run(store.append_events(f"user-{user:02d}", events))
    if night == 2:
        first = Manifest.decode((out_dir / "first-manifest.json").read_bytes())
        asyncio.run(store.swap_manifest(None, first))


def pass_night(world: World, out_dir: Path, *, night: int, log: Path) -> str:
    """Run a night, or the rest of one, and return a digest of the store's content."""
    store = MemoryStore(clock=lambda: 0.0)
    fill(world, store, out_dir, night=night)

    def think(users: Sequence[UserHistory]) -> list[UserThoughts]:
        if len(users) > 1:  # one alone is a second try
            with log.open("a") as stream:
                stream.write(f"{users[0].user_id}\n")
        if any(user.user_id == POISON for user in users):
            raise RuntimeError("poison")
        return world.think(users)

    with asyncio.Runner() as runner:
        refresh(
            world.settings(out_dir),
            store=store,
            runner=runner,
            progress=make_progress(Console(file=io.StringIO())),
            now_ms=NOW_MS + night,
            load=lambda *_: think,
        )
    content = sorted((key, value.hex()) for key, value in store.values.items())
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Killer:
    """Counts lines of `offline/` and writes to segments, and dies at the one it is told."""

    def __init__(self, *, at_line: int | None = None, at_write: int | None = None) -> None:
        self.num_lines = self.num_writes = 0
        self._at_line, self._at_write = at_line, at_write
        self._write = os.write

    def arm(self) -> None:
        os.write = self._torn_write  # type: ignore[assignment]
        sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, _event: str, _argument: Any) -> Trace | None:
        return self._on_line if frame.f_code.co_filename.startswith(_OFFLINE) else None

    def _on_line(self, _frame: FrameType, event: str, _argument: Any) -> Trace:
        if event == "line":
            self.num_lines += 1
            if self.num_lines == self._at_line:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._on_line

    def _torn_write(self, descriptor: int, content: bytes) -> int:
        self.num_writes += 1
        if self.num_writes == self._at_write:
            self._write(descriptor, content[: len(content) * 2 // 3])
            os.kill(os.getpid(), signal.SIGKILL)
        return self._write(descriptor, content)


class Child(NamedTuple):
    pid: int
    result: int  # file descriptor of a pipe that brings the result as JSON


def start_child(work: Callable[[], dict[str, Any]]) -> Child:
    """Run `work` in a fork."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            with os.fdopen(writing, "w") as stream:
                json.dump(work(), stream)
        except BaseException:  # noqa: BLE001 - this process ends here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    return Child(child, reading)


def join_child(child: Child) -> dict[str, Any] | None:
    """Return the result of a fork; None if it was killed. Raise RuntimeError if it failed."""
    with os.fdopen(child.result, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child.pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status != 0:
        raise RuntimeError(f"a night failed with status {status}")
    found: dict[str, Any] = json.loads(said)
    return found


def digests(out_dir: Path) -> dict[str, str]:
    """SHA-256 of every file of a night, except files with times and the archive of events.

    Parts of the archive are named by the time at which they were drained.
    """
    return {
        file.relative_to(out_dir).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(out_dir.rglob("*"))
        if file.is_file() and not _tells_time(file)
    }


def _tells_time(file: Path) -> bool:
    in_archive = file.parent.name == "archive"
    return file.name in _WITH_TIMES or file.suffix == ".times" or in_archive


def run(world: World, out_dir: Path, log: Path, killer: Killer, *, night: int = 2) -> Any:
    def work() -> dict[str, Any]:
        killer.arm()
        store = pass_night(world, out_dir, night=night, log=log)
        sys.settrace(None)
        return {"store": store, "lines": killer.num_lines, "writes": killer.num_writes}

    return join_child(start_child(work))


def new_trial(world: World, name: str) -> Path:
    """OUT as it was after the first night."""
    out_dir = world.folder / name
    shutil.copytree(world.folder / "first", out_dir)
    return out_dir


def main(release_dir: Path, folder: Path, num_kills: int, seed: int) -> dict[str, Any]:
    """Kill half of the nights in each of two processes, and add up their results."""
    release = Release.load(release_dir)
    settings = World(release, folder, lambda _: []).settings(folder)
    world = World(release, folder, load_think(release, settings))
    log = folder / "thought.log"
    run(world, folder / "first", log, Killer(), night=1)
    (folder / "first" / "manifest.json").rename(folder / "first" / "first-manifest.json")
    log.unlink()
    whole = run(world, new_trial(world, "whole"), log, Killer())
    expected, num_batches = digests(folder / "whole"), len(log.read_text().splitlines())

    def kill_half(at: int) -> dict[str, Any]:
        return kill_nights(
            world,
            f"half-{at}",
            whole=whole,
            expected=expected,
            num_kills=(num_kills + at) // 2,
            seed=seed + at,
        )

    halves = [start_child(partial(kill_half, at)) for at in range(2)]
    found = [half for half in map(join_child, halves) if half is not None]
    counts = ("kills", "torn", "trials", "thought")
    sums: dict[str, Any] = {name: sum(half[name] for half in found) for name in counts}
    sums["wrong"] = [name for half in found for name in half["wrong"]]
    sums["redone"] = sums.pop("thought") - sums["trials"] * num_batches
    return sums | {"files": len(expected), "batches": num_batches, "lines": whole["lines"]}


def kill_nights(
    world: World,
    name: str,
    *,
    whole: Mapping[str, Any],
    expected: Mapping[str, str],
    num_kills: int,
    seed: int,
) -> dict[str, Any]:
    """Kill and resume nights, and compare each finished one with the `whole` night."""
    log = world.folder / f"{name}.log"
    rng = np.random.default_rng(seed)
    kills = torn = trials = 0
    wrong: list[str] = []
    while kills < num_kills:
        out_dir = new_trial(world, f"{name}-{trials}")
        trials += 1
        found = None
        while found is None:
            killer = Killer()
            if kills < num_kills:
                is_torn = bool(rng.random() < 0.2)
                at = int(rng.integers(1, 4 if is_torn else whole["lines"] // 8))
                killer = Killer(at_write=at) if is_torn else Killer(at_line=at)
            found = run(world, out_dir, log, killer)
            if found is None:
                kills += 1
                torn += is_torn
        actual = digests(out_dir)
        names = sorted(expected.keys() | actual.keys())
        wrong += [name for name in names if expected.get(name) != actual.get(name)]
        wrong += ["store"] if found["store"] != whole["store"] else []
    thought = len(log.read_text().splitlines())
    return {"kills": kills, "torn": torn, "trials": trials, "wrong": wrong, "thought": thought}


if __name__ == "__main__":
    _release, _folder, _kills, _seed = sys.argv[1:]
    found = main(Path(_release), Path(_folder), int(_kills), int(_seed))
    sys.stdout.write(json.dumps(found) + "\n")
