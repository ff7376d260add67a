"""`python -m training learn` as a command: with a real Redis, once and following."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.catalog.dataset import ItemText
from models.catalog.fed_items import FedItem
from models.log.event_log import EventLog
from models.release.live import LiveFolder, LiveRelease, load_live
from models.release.release import Release
from models.store.events import Event
from models.store.model_pointer import ModelPointer
from models.store.redis_store import RedisStore
from tests import ROOT
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy_learner import toy_dataset, toy_vectors, write_toy_data
from training.item_text import WIDTH
from training.learn.cli import main
from training.learn.item_growth import catalog_vectors
from training.learn.store_side import ErasedUsers

NUM = 30


@pytest.fixture
def options(release: Release, tmp_path: Path, server: RedisServer) -> list[str]:
    server.flush()
    write_toy_data(toy_dataset(release.catalog), tmp_path / "data")
    (tmp_path / "settings.toml").write_text(
        "[gates]\nleast_events = 5\nold_users = 20\nslice_margin = 1.0\nforget_margin = 1.0\n"
        "slowdown = 1e9\n[types]\nview = 0.0\n"
    )
    return [
        *("--release", str(release.directory), "--data", str(tmp_path / "data")),
        *("--live", str(tmp_path / "live"), "--work", str(tmp_path / "work")),
        *("--settings", str(tmp_path / "settings.toml"), "--redis", server.url),
        *("--slice-s", "1", "--tick-s", "0.1"),
    ]


def on_store(server: RedisServer, call: Any) -> Any:
    async def run() -> Any:
        store = RedisStore(server.url, 5000)
        try:
            return await call(store)
        finally:
            await store.close()

    return asyncio.run(run())


def append(server: RedisServer, release: Release, *, first: int = 0, item: str = "") -> None:
    events = {
        f"user-{at}": [Event(item or release.catalog.item_ids[7 * at % 200], 10**9 + at, f"e{at}")]
        for at in range(first, first + NUM)
    }
    on_store(server, lambda store: store.append_histories(events))


def pointer_of(server: RedisServer) -> ModelPointer | None:
    pointer: ModelPointer | None = on_store(server, lambda store: store.read_model())
    return pointer


def test_once_learns_the_log_and_points_to_it(
    release: Release, server: RedisServer, options: list[str], tmp_path: Path, capsys: Any
) -> None:
    append(server, release)
    views = {"user-1": [Event(release.catalog.item_ids[0], 10**9, "view", "view")]}
    on_store(server, lambda store: store.append_histories(views))
    assert main(["--once", *options]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line["events"] for line in lines) == NUM + 1
    assert lines[-1]["outcome"] == "accepted"
    live, pointer = LiveFolder(tmp_path / "live"), pointer_of(server)
    in_folder = live.pointer()
    assert pointer is not None
    assert in_folder is not None
    assert pointer.version == in_folder.version
    assert pointer.deltas > 0
    load_live(live, pointer.version)
    assert main(["--once", *options]) == 0  # nothing new: nothing is published
    assert pointer_of(server) == pointer


def test_a_user_erased_by_the_night_is_forgotten_for_good(
    release: Release, server: RedisServer, options: list[str], tmp_path: Path, capsys: Any
) -> None:
    append(server, release)
    assert main(["--once", *options]) == 0

    async def erase(store: RedisStore) -> None:
        await store.request_erasure("user-7")
        erasures = await store.take_erasures("worker", count=1, idle_ms=1000)
        await store.settle_erasures(erasures)

    on_store(server, erase)
    assert main(["--once", *options]) == 0
    log = EventLog(tmp_path / "work" / "log")
    assert {each.user_id for each in log.read()} == {f"user-{at}" for at in range(NUM)} - {"user-7"}
    erased = ErasedUsers(tmp_path / "work", None)  # as a new process reads it
    assert erased.hides_at("user-7", 1000 * 10**9)
    assert not erased.hides_at("user-8", 1000 * 10**9)


def test_once_exits_65_if_a_gate_fails(
    release: Release, server: RedisServer, options: list[str], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "settings.toml").write_text("[gates]\nnorm_growth = 1e-6\nold_users = 20\n")
    append(server, release)
    assert main(["--once", *options]) == 65
    assert "norm" in capsys.readouterr().err


def test_a_bad_setting_is_named(options: list[str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "settings.toml").write_text("[steps]\nold_share = 2.0\n")
    assert main(["--once", *options]) == 78
    assert "[steps] old_share 2.0" in capsys.readouterr().err


@contextlib.contextmanager
def following(options: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "training", "learn", "--follow", *options]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(is_so: Any, *, seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, "too late"
        time.sleep(0.1)


JUMPED_MS = 4_000_000_000_000  # 2096


def wide_vectors(items: Mapping[str, ItemText]) -> NDArray[np.float32]:
    """Return unit vectors as wide as those of the sentence model."""
    return np.pad(toy_vectors(items), ((0, 0), (0, WIDTH - 4)))


@pytest.mark.system
def test_faults_around_a_learner_that_follows_lose_nothing_and_change_nothing(
    release: Release, own_server: RedisServer, options: list[str], tmp_path: Path, capsys: Any
) -> None:
    """A store that is away, a full disk, a clock that jumps, a second learner; each in one line.

    The learner follows all the time, and learns an item of the feed first.
    """
    options[options.index("--redis") + 1] = own_server.url
    options[options.index("--slice-s") + 1] = "0.4"
    # Vectors of the catalog as an earlier run left them, and an item without a text: so the
    # sentence model, seconds of CPU, stays out.
    (tmp_path / "work").mkdir()
    catalog_vectors(release.catalog, wide_vectors, tmp_path / "work" / "text_vectors.safetensors")
    live, log = LiveFolder(tmp_path / "live"), EventLog(tmp_path / "work" / "log")
    num_appended = 0

    def post(item: str = "") -> str:
        nonlocal num_appended
        append(own_server, release, first=num_appended, item=item)
        num_appended += NUM
        end: str = on_store(own_server, lambda store: store.log_end())
        return end

    def served() -> LiveRelease:
        pointer = live.pointer()
        assert pointer is not None
        return load_live(live, pointer.version)

    def row_of(item_id: str) -> int | None:
        return served().release.catalog.row(item_id)

    def counted(entry: str) -> None:
        wait_for(lambda: (found := pointer_of(own_server)) and found.watermark == entry)

    def said(words: str) -> int:
        return (tmp_path / "err").read_text().count(words)

    with following(options, tmp_path) as process:
        wait_for(lambda: pointer_of(own_server) is not None)
        counted(post())
        on_store(own_server, lambda store: store.offer_items([FedItem(item_id="plain")]))
        wait_for(lambda: row_of("plain") is not None)
        counted(post("plain"))
        assert main(["--once", *options]) == 75
        assert "another job is running here" in capsys.readouterr().err

        own_server.kill()
        wait_for(lambda: said("waiting: "))
        before = live.pointer()
        time.sleep(0.5)  # five ticks
        own_server.start()
        assert live.pointer() == before
        assert said("waiting: ") <= 2  # a lost connection, and then refused ones
        counted(post())

        before, files = live.pointer(), sorted(live.path.rglob("*"))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
        end = post()
        wait_for(lambda: said("File too large"))
        time.sleep(0.5)
        assert (said("File too large"), live.pointer()) == (1, before)
        assert sorted(live.path.rglob("*")) == files
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        counted(end)

        jump = Event(release.catalog.item_ids[3], 4_000_000_000, "from tomorrow")
        own_server.log(f"{JUMPED_MS}-0", "user-1", jump)
        own_server.log(f"{JUMPED_MS}-1", "user-2", jump._replace(timestamp=1))
        end = post()  # its arrivals do not go back
        counted(end)
        assert end.startswith(f"{JUMPED_MS}-")
        wait_for(lambda: said("ahead of this clock"))
        wait_for(lambda: lines_of(tmp_path)[-1]["until"] == end)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert said("ahead of this clock") == 1
    assert sum(line["events"] for line in lines_of(tmp_path)) == num_appended + 2
    entries = [each.entry for each in log.read()]
    assert len(entries) == len(set(entries)) == num_appended + 2
    row, neighbours = row_of("plain"), served().neighbours
    assert row is not None
    assert neighbours is not None
    assert neighbours.first[row + 1] > neighbours.first[row]


@pytest.mark.slow
def test_a_store_that_hangs_is_waited_for_and_loses_nothing(
    release: Release, own_server: RedisServer, options: list[str], tmp_path: Path
) -> None:
    """SIGSTOP: the kernel goes on accepting connections, and nobody answers.

    Each look at the store times out after five seconds, so two of them fail here.
    """
    options[options.index("--redis") + 1] = own_server.url
    options[options.index("--slice-s") + 1] = "0.4"

    def said(words: str) -> int:
        return (tmp_path / "err").read_text().count(words)

    def num_learnt() -> int:
        return sum(line["events"] for line in lines_of(tmp_path))

    with following(options, tmp_path) as process:
        for hang in range(2):
            append(own_server, release, first=2 * NUM * hang)
            wait_for(lambda num=(2 * hang + 1) * NUM: num_learnt() == num)
            append(own_server, release, first=2 * NUM * hang + NUM)  # perhaps not read yet
            own_server.signal(signal.SIGSTOP)
            wait_for(lambda num=hang + 1: said("waiting: ") == num)
            time.sleep(7)
            assert process.poll() is None
            own_server.signal(signal.SIGCONT)
            wait_for(lambda num=2 * (hang + 1) * NUM: num_learnt() == num)
        end = on_store(own_server, lambda store: store.log_end())
        wait_for(lambda: (found := pointer_of(own_server)) and found.watermark == end)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert said("waiting: ") == 2  # one line a hang
    entries = [each.entry for each in EventLog(tmp_path / "work" / "log").read()]
    assert len(entries) == len(set(entries)) == 4 * NUM


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out").read_text().splitlines()]
