"""Keeping up with the night: which manifest is in use."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from models.store.keys import DEFAULT_KEYS
from models.store.manifest import Canary, Layer, Manifest
from service.telemetry.metrics import Metrics
from service.users.breaker import Breaker
from service.users.manifest_watch import ManifestWatch
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    GENERATION,
    InProcess,
    activate,
    give_record,
    new_record,
    serving,
    toy_engine,
)

NEWER = GENERATION + 1


@pytest.fixture
async def users(store: MemoryStore) -> None:
    await give_record(store, "user", new_record(generation=GENERATION))
    await give_record(store, "user", new_record(generation=NEWER))
    await activate(store, GENERATION, epoch=5)


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"manifest_poll_ms": 10}


async def eventually(read: Callable[[], Awaitable[object]], expected: object) -> None:
    deadline = time.monotonic() + 30
    while (found := await read()) != expected:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.01)


async def generation(service: InProcess) -> object:
    answer = await service.recommend("user")
    return answer["generation"] and answer["generation"]["id"]


def refused(service: InProcess, reason: str) -> Callable[[], Awaitable[bool]]:
    async def read() -> bool:
        sample = f'thinkahead_manifest_refused_total{{reason="{reason}"}}'
        return await service.metric(sample) > 0

    return read


async def test_a_new_generation_is_served_without_a_restart(
    service: InProcess, store: MemoryStore
) -> None:
    assert await generation(service) == GENERATION
    await activate(store, NEWER, epoch=6)
    await eventually(lambda: generation(service), NEWER)
    assert await service.metric("thinkahead_manifest_epoch") == 6


async def test_a_rollback_is_a_newer_epoch_and_is_followed(
    service: InProcess, store: MemoryStore
) -> None:
    await activate(store, NEWER, epoch=6)
    await eventually(lambda: generation(service), NEWER)
    await activate(store, GENERATION, epoch=7)
    await eventually(lambda: generation(service), GENERATION)


async def test_an_older_epoch_is_refused(service: InProcess, store: MemoryStore) -> None:
    store.values.pop(DEFAULT_KEYS.manifest)
    await activate(store, NEWER, epoch=4)
    await eventually(refused(service, "epoch"), True)
    assert await generation(service) == GENERATION


async def test_a_foreign_fingerprint_is_refused(service: InProcess, store: MemoryStore) -> None:
    await activate(store, NEWER, epoch=6, fingerprint=1)
    await eventually(refused(service, "fingerprint"), True)
    assert await generation(service) == GENERATION


async def test_garbage_is_refused_and_does_not_count_as_an_outage(
    service: InProcess, store: MemoryStore
) -> None:
    store.values[DEFAULT_KEYS.manifest] = b"{"
    await eventually(refused(service, "garbage"), True)
    assert await generation(service) == GENERATION
    assert await service.metric("thinkahead_breaker_open") == 0


async def test_a_manifest_that_vanishes_leaves_the_last_good_one(
    service: InProcess, store: MemoryStore
) -> None:
    store.values.pop(DEFAULT_KEYS.manifest)
    await asyncio.sleep(0.1)
    assert await generation(service) == GENERATION


async def test_a_refused_first_manifest_degrades_the_answers() -> None:
    store = MemoryStore()
    await activate(store, GENERATION, fingerprint=1)
    async with serving(store) as service:
        answer = await service.recommend("user")
        assert (answer["source"], answer["degraded"]) == ("global", True)
        assert await service.metric('thinkahead_fallbacks_total{reason="manifest"}') == 1


async def test_a_store_that_comes_late_is_taken_up() -> None:
    store = MemoryStore()
    store.is_away = True
    async with serving(store, manifest_poll_ms=10) as service:
        store.is_away = False
        await give_record(store, "user", new_record())
        await activate(store, GENERATION)
        await eventually(lambda: generation(service), GENERATION)


async def test_keeping_up_survives_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryStore):
        num_reads = 0

        async def read_manifest(self) -> Manifest | None:
            self.num_reads += 1
            if self.num_reads == 2:
                raise RuntimeError("a bug")
            return await super().read_manifest()

    store = Broken()
    async with serving(store, manifest_poll_ms=10):
        deadline = time.monotonic() + 30
        while store.num_reads < 4:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    assert "a bug" in caplog.text


async def test_a_refusal_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    await activate(store, GENERATION, fingerprint=1)
    space = toy_engine().catalog.space
    watch = ManifestWatch(
        store, fingerprint=space.fingerprint, breaker=Breaker(), metrics=Metrics()
    )
    for _ in range(3):
        assert await watch.poll()
    assert caplog.text.count("manifest refused") == 1


async def test_a_canary_s_users_are_answered_from_its_generation_and_stay_there(
    service: InProcess, store: MemoryStore
) -> None:
    users = [f"user-{number}" for number in range(60)]
    for user in users:
        for each in (GENERATION, NEWER):
            await give_record(store, user, new_record(generation=each))
    held = await activate(store, GENERATION, epoch=6)
    layer = Layer(generation=NEWER, created_at=0, users=1)
    canary = Canary(percent=30, layers=(layer,))
    await store.swap_manifest(held, held.model_copy(update={"epoch": 7, "canary": canary}))
    await eventually(lambda: service.metric("thinkahead_manifest_epoch"), 7)

    async def ask_all() -> list[object]:
        return [(await service.recommend(user))["generation"]["id"] for user in users]

    expected = [NEWER if canary.takes(user) else GENERATION for user in users]
    assert await ask_all() == await ask_all() == expected
    assert {GENERATION, NEWER} == set(expected)


def test_a_manifest_without_a_canary_is_written_as_it_always_was() -> None:
    layer = Layer(generation=5, created_at=1, users=2)
    manifest = Manifest(epoch=1, fingerprint=7, base=layer, release="toy")
    assert b"canary" not in manifest.encode()
    canary = Canary(percent=12.5, layers=(layer,))
    with_canary = manifest.model_copy(update={"canary": canary})
    assert Manifest.decode(with_canary.encode()) == with_canary


def test_a_growing_canary_keeps_its_users() -> None:
    layer = Layer(generation=5, created_at=1, users=2)
    users = [f"user-{number}" for number in range(2000)]
    small, large = (
        {user for user in users if Canary(percent=percent, layers=(layer,)).takes(user)}
        for percent in (5, 25)
    )
    assert small < large
    assert (60 < len(small) < 140, 400 < len(large) < 600) == (True, True)
