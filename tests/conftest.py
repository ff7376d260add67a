"""Fixtures of all tests: a trained toy release and a Redis server; which markers run by default."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.release.release import Release
from tests.fakes.service_harness import RedisServer
from tests.fakes.toy import toy_release
from tests.system import is_timed

ON_REQUEST = ("gpu", "vllm", "ray", "cluster", "browser", "slow")


def may_hold_system_tests(file: Path) -> bool:
    return is_timed(file) or "mark.system" in file.read_text()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m system`, import only files that may hold such tests: all of them take seconds."""
    is_file = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if config.option.markexpr == "system" and is_file:
        return not may_hold_system_tests(collection_path) or None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of each marker in ON_REQUEST that `-m` does not name."""
    system = {item.path for item in items if item.get_closest_marker("system")}
    if lost := sorted(str(file) for file in system if not may_hold_system_tests(file)):
        raise pytest.UsageError(
            f"{lost}: `-m system` would miss their tests, see tests/conftest.py"
        )
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
