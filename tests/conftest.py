"""Fixtures of all tests: a trained toy release and a Redis server. One thread for torch."""

from collections.abc import Iterator

import pytest
import torch

from models.release.release import Release
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy import toy_release

torch.set_num_threads(1)  # two threads beside other work are ten times slower than one


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
