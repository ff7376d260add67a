"""Jobs that the service hands to a worker: thinking about a user, and erasing a user."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from models.store.contract import ServingStore
from models.store.queues import MAX_ERASURES
from models.store.redis_store import RedisStore
from offline.live.erasure import carry_out_erasures
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    InProcess,
    RedisServer,
    furnish,
    item_ids,
    serving,
)


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"manifest_poll_ms": 60_000}


async def test_a_thought_is_asked_for_with_its_instruction(
    service: InProcess, store: MemoryStore
) -> None:
    said = {"instruction": "a present for my sister"}
    answer = await service.client.post("/v1/users/a%2Fb/think", json=said)
    assert (answer.status_code, answer.json()["user_id"]) == (202, "a/b")
    assert (await service.client.post("/v1/users/user/think")).status_code == 202
    assert (await service.client.post("/v1/users/user/think", json={})).status_code == 202
    taken = await store.take_requests("me", count=9, wait_ms=1, idle_ms=0)
    assert [(request.user_id, request.instruction) for request in taken] == [
        *(("a/b", "a present for my sister"), ("user", None), ("user", None)),
    ]


async def test_a_wish_tells_if_a_worker_is_alive(service: InProcess, store: MemoryStore) -> None:
    """With no worker anywhere a wish got the same 202 as one that was granted within seconds."""
    for change, workers in ((None, 0), ("one", 1), ("two", 2)):
        if change is not None:
            await store.beat(change)
        wish = await service.client.post("/v1/users/user/think")
        erasure = await service.client.delete("/v1/users/user")
        assert (wish.json()["workers"], erasure.json()["workers"]) == (workers, workers)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/users/user/think", {"instruction": "x" * 501}, 422),
        ("/v1/users/user/think", {"instruction": 5}, 422),
        ("/v1/users/user/think", {"colour": "red"}, 422),
        ("/v1/users/%00/think", {}, 422),
        ("/v1/users/a/b/think", {}, 404),
    ],
)
async def test_what_cannot_be_thought_about_is_refused(
    service: InProcess, store: MemoryStore, path: str, body: dict[str, object], status: int
) -> None:
    answer = await service.client.post(path, json=body)
    assert answer.status_code == status
    assert await store.take_requests("me", count=9, wait_ms=1, idle_ms=0) == []


async def test_the_longest_instruction_is_taken(service: InProcess, store: MemoryStore) -> None:
    said = {"instruction": "😀" * 500}
    assert (await service.client.post("/v1/users/user/think", json=said)).status_code == 202


@pytest.mark.parametrize(("method", "path"), [("POST", "/think"), ("DELETE", "")])
async def test_nothing_is_accepted_while_the_store_is_away(
    service: InProcess, store: MemoryStore, method: str, path: str
) -> None:
    store.is_away = True
    answer = await service.client.request(method, f"/v1/users/user{path}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    store.is_away = False
    assert (await service.recommend("user"))["source"] == "personal"


async def test_from_acceptance_on_nothing_of_the_user_is_served(
    service: InProcess, store: MemoryStore, tmp_path: Path
) -> None:
    unknown = await service.recommend("nobody", n=20, explain="true")
    assert (await service.recommend("user"))["source"] == "personal"
    answer = await service.client.delete("/v1/users/user")
    assert (answer.status_code, answer.json()["user_id"]) == (202, "user")
    for is_away in (False, True):  # neither from the store nor from a copy
        store.is_away = is_away
        served = await service.recommend("user", n=20, explain="true")
        assert (served["source"], served["paths"]) == ("global", [])
        assert served["items"] == unknown["items"]
    store.is_away = False
    assert await service.metric("thinkahead_erasures_waiting") == 1
    assert await carry_out_erasures(store, tmp_path, worker="me") == 1
    await service.serving._erasures.poll()
    assert await service.metric("thinkahead_erasures_waiting") == 0
    assert await store.read_histories(["user"]) == {"user": ()}
    await service.client.post("/v1/events/user", json={"item_id": item_ids(1)[0]})
    assert (await service.recommend("user"))["source"] == "online"  # a user who came back


async def test_events_that_waited_are_forgotten_too(store: MemoryStore) -> None:
    async with serving(store, manifest_poll_ms=60_000) as service:
        store.is_away = True
        await service.client.post("/v1/events/user", json={"item_id": "x", "event_id": "late"})
        store.is_away = False
        await service.client.delete("/v1/users/user")
        await service.serving._users.flush()
    events = (await store.read_histories(["user"]))["user"]
    assert "late" not in [event.event_id for event in events]


async def test_every_process_forgets_its_copies(tmp_path: Path) -> None:
    """Also one that looks only after the worker is through, and has no store to ask then."""
    store = MemoryStore()
    await furnish(store)
    async with (
        serving(store, manifest_poll_ms=60_000) as one,
        serving(store, manifest_poll_ms=60_000) as waiting,
        serving(store, manifest_poll_ms=60_000) as late,
    ):
        for service in (one, waiting, late):
            assert (await service.recommend("user"))["source"] == "personal"
        await one.client.delete("/v1/users/user")
        await waiting.serving._erasures.poll()
        assert (await waiting.recommend("user"))["source"] == "global"
        await carry_out_erasures(store, tmp_path, worker="me")
        await late.serving._erasures.poll()
        store.is_away = True
        for service in (one, waiting, late):
            assert (await service.recommend("user"))["source"] == "global"


async def test_a_reading_that_began_before_is_not_served_after() -> None:
    class Slow(MemoryStore):
        reading = asyncio.Event()
        may_go_on = asyncio.Event()

        async def after_read(self, user_id: str) -> None:
            self.reading.set()
            await self.may_go_on.wait()

    store = Slow()
    await furnish(store)
    async with serving(store, manifest_poll_ms=60_000) as service:
        asking = asyncio.create_task(service.recommend("user"))
        await store.reading.wait()
        await service.client.delete("/v1/users/user")
        store.may_go_on.set()
        assert (await asking)["source"] == "global"
        assert await service.metric("thinkahead_user_copies") == 0


async def test_more_erasures_than_can_wait_are_refused(
    service: InProcess, store: MemoryStore, tmp_path: Path
) -> None:
    for at in range(MAX_ERASURES):
        await store.request_erasure(f"user-{at}")
    answer = await service.client.delete("/v1/users/user")
    assert answer.status_code == 503
    assert "is a worker running" in answer.json()["detail"]


async def test_the_service_needs_to_read_ping_and_append_only(tmp_path: Path) -> None:
    """Any other command would be NOPERM for the service's Redis user, and a 503."""
    with RedisServer(tmp_path) as server:
        rules = ("resetchannels", "~ta:*", "-@all", "+@read", "+ping", "+select", "+xadd")
        with redis.Redis.from_url(server.url) as admin:
            admin.execute_command("ACL", "SETUSER", "serving", "on", ">secret", *rules)
        night = RedisStore(server.url, 5000)
        await furnish(night)
        limited: ServingStore = RedisStore(
            server.url.replace("redis://", "redis://serving:secret@"), 5000
        )
        async with serving(limited, manifest_poll_ms=60_000) as service:
            assert (await service.recommend("user", explain="true"))["paths"]
            posts = [
                ("/v1/events/user", {"item_id": "x"}),
                ("/v1/events:batch", {"events": [{"user_id": "user", "item_id": "y"}]}),
                ("/v1/users/user/think", {}),
                ("/v1/recommend", {"user_id": "user"}),
                ("/v1/items", {"items": [{"item_id": "x"}]}),
            ]
            for path, body in posts:
                answer = await service.client.post(path, json=body)
                assert answer.status_code in (200, 202), answer.text
                assert '"status":503' not in answer.text
            assert len((await night.read_histories(["user"]))["user"]) == 5
            assert (await service.client.delete("/v1/users/user")).status_code == 202
            assert (await service.recommend("user"))["source"] == "global"
            assert await carry_out_erasures(night, tmp_path / "out", worker="me") == 1
            await service.serving._erasures.poll()
            assert (await service.recommend("user"))["source"] == "global"
            with redis.Redis.from_url(server.url) as admin:
                left = sorted(key.decode() for key in admin.keys("*"))
            streams = ["ta:erased", "ta:erasures", "ta:items", "ta:log"]
            assert left == [*streams, "ta:manifest", "ta:requests"]
            assert (await night.read_log("0-0", 99)).events == ()
        await night.close()
