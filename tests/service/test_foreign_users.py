"""A store that holds the users of another data set is told of, and served all the same."""

import logging

import pytest

from models.store.events import Event
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import InProcess, item_ids, serving, until_ready


@pytest.mark.parametrize(("num_foreign", "share"), [(1, 0.25), (9, 0.75)])
async def test_most_users_without_an_item_are_a_warning(
    num_foreign: int, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody got the same list, `degraded: false`, and nothing anywhere said why."""
    store = MemoryStore()
    for at in range(3):
        await store.append_events(f"own-{at}", [Event(item_ids(1)[0], 1, "e")])
    for at in range(num_foreign):
        await store.append_events(f"foreign-{at}", [Event("of-another-shop", 1, "e")])
    async with serving(store) as service:
        await until_ready(service)
        await service.serving.foreign_users.look()
        health = (await service.client.get("/health/ready")).json()
        assert await read_share(service) == share
    warned = [line for line in caplog.messages if "sampled users have no item" in line]
    if share < 0.5:
        assert (health["warning"], warned) == (None, [])
    else:
        assert warned == [health["warning"]]
        assert warned[0].startswith("9 of 12 sampled users have no item of this release")
        assert caplog.records[caplog.messages.index(warned[0])].levelno == logging.WARNING


async def read_share(service: InProcess) -> float:
    return await service.metric("thinkahead_users_without_item")


async def test_an_empty_store_is_no_warning(service: InProcess) -> None:
    assert (await service.client.get("/health/ready")).json()["warning"] is None
