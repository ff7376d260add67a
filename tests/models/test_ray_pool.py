"""Thinking on Ray: two nodes on this machine, of which one is killed (`-m ray`)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models.reasoner.think import UserHistory
from models.release.release import Release
from models.store.embedded import attach
from offline.commands.cli import main
from offline.plan.due import micro_batches
from offline.settings import RefreshSettings
from offline.think.engine_choice import EngineSettings
from offline.think.engines import RayThink, load_engine
from offline.think.micro_batch import Think
from tests import ROOT
from tests.fakes.toy import toy_histories
from tests.fakes.toy_night import write_data

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),
]


@pytest.fixture
def settings(release: Release, tmp_path: Path) -> RefreshSettings:
    return RefreshSettings(release.directory, tmp_path, paths=3, width=6)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that computes nothing, and two nodes of one core each; loopback only."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def batches_of(release: Release, count: int) -> list[list[UserHistory]]:
    histories = toy_histories(release.catalog, num_users=16 * count, seed=3)
    users = [UserHistory(f"u{at}", tuple(rows)) for at, rows in enumerate(histories)]
    return [list(batch) for batch in micro_batches(users, 16)]


def test_a_night_on_two_nodes_of_which_one_is_killed_is_that_of_one_process(
    cluster: Any, release: Release, settings: RefreshSettings
) -> None:
    """Bit by bit, every user once, in order: a lost micro-batch is done again whole."""
    batches = batches_of(release, 12)
    local = load_engine(release, settings, EngineSettings())
    expected = [local(batch) for batch in batches]
    think = RayThink(release.directory, settings, EngineSettings("ray", workers=2))
    think.expect(batches)
    found = [think(batches[0])]
    cluster.remove_node(cluster.workers[0], allow_graceful=False)
    found += [think(batch) for batch in batches[1:]]
    assert found == expected
    assert think(batches[3][:1])[0].texts == expected[3][0].texts  # a user on his own


def test_a_micro_batch_that_fails_is_said_and_the_others_go_on(
    cluster: Any, release: Release, settings: RefreshSettings
) -> None:
    from models.reasoner.ray_pool import RayPool

    batches = batches_of(release, 3)
    pool = RayPool(partial(load_fussy, release.directory, settings), workers=1)
    found = list(pool.think(batches))
    assert [thoughts is None for thoughts in found] == [
        any(user.user_id == "u7" for user in batch) for batch in batches
    ]


@pytest.mark.parametrize("command", ["refresh --dry-run", "worker --once"])
def test_a_command_on_ray_ends_what_it_started(
    command: str, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("THINKAHEAD_REDIS_URL", raising=False)
    monkeypatch.setenv("THINKAHEAD_STATE_DIR", str(tmp_path / "state"))
    write_data(tmp_path / "data", release.catalog)
    words = ["--release", str(release.directory), "--engine", "ray", "--paths", "2", "--width", "4"]
    with attach(tmp_path / "state"):
        assert main(["import", "--data", str(tmp_path / "data")]) == 0
        assert main([*command.split(), *words]) == 0
    assert not ray.is_initialized()


def load_fussy(release_dir: Path, settings: RefreshSettings) -> Think:
    think = load_engine(Release.load(release_dir), settings, EngineSettings())

    def fussy(users: Any) -> Any:
        if any(user.user_id == "u7" for user in users):
            raise ValueError("u7")
        return think(users)

    return fussy


def test_what_a_user_asks_for_reaches_the_workers() -> None:
    """The first version of instructions lost them on the way."""
    pool_ray = pytest.importorskip("models.reasoner.ray_pool")
    users = [UserHistory("a", (1, 2)), UserHistory("b", (3,), "something relaxing")]
    assert pool_ray._read_users(pool_ray._write_users(users)) == users
