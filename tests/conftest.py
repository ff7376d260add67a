"""Fixtures of all tests: a trained toy release and a Redis server; which markers run by default."""

from collections.abc import Iterator

import pytest
import torch

from models.release.release import Release
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy import toy_release

ON_REQUEST = ("gpu", "vllm", "ray", "cluster", "browser", "slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of each marker in ON_REQUEST that `-m` does not name."""
    excluded = [name for name in ON_REQUEST if name not in config.option.markexpr]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in excluded)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Undo `--workers` of commands: two threads beside other work are 20 times slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The toy world with a trained reasoner. Tests only read it."""
    return toy_release(tmp_path_factory.mktemp("release") / "toy")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the tests of a module. A test that needs it empty calls `flush`."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for one test, which may kill it."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server
