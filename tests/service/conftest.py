"""A service over a memory store, inside the test process.

A module that needs other users, settings or another engine overrides the fixture in question.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.recommend.engine import Engine
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    InProcess,
    furnish,
    serving,
    toy_engine,
    until_ready,
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def users(store: MemoryStore) -> None:
    """Gives `user` a record and a history, and makes the record's generation live."""
    await furnish(store)


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings that differ from the harness's."""
    return {}


@pytest.fixture
def engine() -> Engine:
    return toy_engine()


@pytest.fixture
async def service(
    store: MemoryStore, users: None, settings: dict[str, Any], engine: Engine
) -> AsyncIterator[InProcess]:
    async with serving(store, engine=engine, **settings) as service:
        await until_ready(service)
        yield service
