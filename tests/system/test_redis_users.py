"""Redis users with few rights on a real server: each tier can do its work, the service no more.

The rights of the service stand in deploy/redis-users.acl and in docs/operate-service.md: both are
tested.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import redis

from models.catalog.fed_items import FedItem
from models.errors import StoreUnavailable
from models.store.contract import BEGINNING
from models.store.events import Event
from models.store.keys import DEFAULT_KEYS
from models.store.model_pointer import ModelPointer
from models.store.redis_store import RedisStore
from tests import ROOT
from tests.fakes.night_world import START_MS, NightWorld, names
from tests.fakes.service_harness import RedisServer, ServiceProcess, item_ids, toy_release_dir
from tests.offline.test_worker import working

pytestmark = pytest.mark.timeout(300)
SERVICE, NIGHT, ADMIN = "thinkahead-service", "thinkahead-night", "thinkahead-admin"
LEARNER = "thinkahead-learner"
SECRET = "s3cr3t"
USERS = names(20)
ANN, BOB = USERS[:2]
GENERATION = START_MS + 1


def of_deploy() -> str:
    text = (ROOT / "deploy" / "redis-users.acl").read_text()
    return re.sub(r"CHANGE-ME[A-Z-]*", SECRET, text)


def of_docs() -> str:
    """Return the service's user as the documentation gives it, the night's as in deploy/."""
    text = (ROOT / "docs" / "operate-service.md").read_text()
    (rules,) = re.findall(r"ACL SETUSER serving on >SECRET (.+)", text)
    others = [line for line in of_deploy().splitlines() if SERVICE not in line]
    return "\n".join([*others, f"user {SERVICE} on >{SECRET} {rules}", ""])


@pytest.fixture(params=[of_deploy, of_docs], ids=["deploy", "docs"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    acl = tmp_path / "users.acl"
    acl.write_text(request.param())
    with RedisServer(tmp_path, "--aclfile", str(acl)) as server:
        yield server


@pytest.fixture
def world(server: RedisServer, tmp_path: Path) -> NightWorld:
    """A night by the night's own user."""
    world = NightWorld(as_user(server, NIGHT), tmp_path / "generations")
    for user in USERS[:3]:
        world.append(user, *item_ids(3))
    world.launch(world.think(1, USERS))
    return world


def as_user(server: RedisServer, name: str, password: str = SECRET) -> str:
    return server.url.replace("redis://", f"redis://{name}:{password}@")


PATIENCE = {
    "THINKAHEAD_REDIS_TIMEOUT_MS": "2000",
    "THINKAHEAD_REQUEST_BUDGET_MS": "5000",
    "THINKAHEAD_RECORD_MAX_AGE_HOURS": "1000000",  # the night of the toys was in 2023
}


class Call(NamedTuple):
    path: str
    body: object = None
    status: int = 200


EVENT = {"item_id": "item-7"}
CALLS = {
    ("get", "/recommend/{user_id}"): Call(f"/recommend/{ANN}?explain=true"),
    ("get", "/v1/recommend/{user_id}"): Call(f"/v1/recommend/{ANN}?explain=true"),
    ("post", "/v1/recommend"): Call("/v1/recommend", {"user_id": ANN}),
    ("post", "/v1/recommend:batch"): Call("/v1/recommend:batch", {"user_ids": [ANN, BOB]}),
    ("post", "/events/{user_id}"): Call(f"/events/{ANN}", EVENT),
    ("post", "/v1/events/{user_id}"): Call(f"/v1/events/{ANN}", EVENT),
    ("post", "/v1/events:batch"): Call("/v1/events:batch", {"events": [EVENT | {"user_id": BOB}]}),
    ("post", "/v1/items"): Call("/v1/items", {"items": [{"item_id": "new", "title": "Tea"}]}),
    ("post", "/v1/users/{user_id}/think"): Call(
        f"/v1/users/{ANN}/think", {"instruction": "something for my sister"}, 202
    ),
    ("delete", "/v1/users/{user_id}"): Call(f"/v1/users/{BOB}", None, 202),
    ("get", "/health/live"): Call("/health/live"),
    ("get", "/health/ready"): Call("/health/ready"),
    ("get", "/metrics"): Call("/metrics"),
}


def test_every_route_works_for_the_services_user_and_the_worker_does_the_rest(
    server: RedisServer, world: NightWorld
) -> None:
    world.launch(world.think(2, USERS))
    arguments = ("--release", str(toy_release_dir()), "--redis", as_user(server, SERVICE))
    with (
        ServiceProcess(*arguments, environ=PATIENCE | {"THINKAHEAD_ADMIN_PORT": "0"}) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        expect_admin_to_look_and_change_nothing(service.admin_url)
        until(lambda: source_of(client, ANN) == "personal")
        for (method, _), call in CALLS.items():
            answer = client.request(method, call.path, json=call.body)
            assert answer.status_code == call.status, (call.path, answer.text)
            assert '"status":503' not in answer.text
        assert routes_of(client) == CALLS.keys()
        assert source_of(client, BOB) == "global"
        with working(world) as worker:
            assert worker.serve_once() == (1, 1)
        until(lambda: "something for my sister" in thoughts_of(client, ANN))
        assert keys_of(server, BOB) == []
        wished = client.post(f"/v1/users/{ANN}/think", json={"instruction": "nails, please"})
        assert wished.json()["wish"]["answer"].startswith("Showing more Nails")
        assert client.get(f"/recommend/{ANN}").json()["wish"] is not None
        assert client.get("/metrics").text.count('fallbacks_total{reason="store"} 0.0') == 1
        assert service.stop() == 0
    assert not [line for line in service.log if "NOPERM" in line or SECRET in line]
    assert not [line for line in service.log if "not logged for the learner" in line]


@pytest.mark.parametrize("server", [of_deploy], indirect=True, ids=["deploy"])
def test_the_admin_port_changes_the_manifest_by_a_user_of_its_own(
    server: RedisServer, world: NightWorld
) -> None:
    world.launch(world.think(2, USERS))
    arguments = ("--release", str(toy_release_dir()), "--redis", as_user(server, SERVICE))
    own = {
        "THINKAHEAD_ADMIN_PORT": "0",
        "THINKAHEAD_ADMIN_REDIS_URL": as_user(server, ADMIN),
    }
    with (
        ServiceProcess(*arguments, environ=PATIENCE | own) as service,
        httpx.Client(base_url=service.admin_url, timeout=30) as admin,
    ):
        assert admin.get(f"/users/{ANN}").json()["layers"][0]["record"]
        found = admin.get("/explore/api/find", params={"text": ANN})
        assert found.json()["users"] == [ANN]
        assert admin.get("/explore/api/status").json()["users_looked_at"] > 0
        assert admin.post("/rollback", json={}).json()["held"]["epoch"] == 3
        assert SECRET not in admin.get("/settings").text
        assert service.stop() == 0
    assert world.live() == [1]
    with redis.Redis.from_url(as_user(server, ADMIN)) as client:
        for command in FORBIDDEN:
            allowed = {
                ("SET", DEFAULT_KEYS.manifest),
                ("SET", DEFAULT_KEYS.model),
                ("EVAL", "return 1"),
            }
            if command[:2] not in allowed:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)


def expect_admin_to_look_and_change_nothing(url: str) -> None:
    """Changing the manifest at the admin port needs a Redis user with the right to write it."""
    with httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/manifest").json()["held"]["epoch"] == 2
        assert client.get(f"/users/{ANN}").json()["layers"][0]["record"]
        refused = client.post("/rollback", json={})
        assert (refused.status_code, "NOPERM" in refused.json()["detail"]) == (503, True)


def routes_of(client: httpx.Client) -> set[tuple[str, str]]:
    paths = client.get("/openapi.json").json()["paths"]
    return {(method, path) for path, methods in paths.items() for method in methods}


def source_of(client: httpx.Client, user_id: str) -> str:
    source: str = client.get(f"/recommend/{user_id}").json()["source"]
    return source


def thoughts_of(client: httpx.Client, user_id: str) -> list[str]:
    answer = client.get(f"/recommend/{user_id}", params={"explain": "true"}).json()
    return [path["text"] for path in answer["paths"]]


def keys_of(server: RedisServer, user_id: str) -> list[bytes]:
    with redis.Redis.from_url(as_user(server, NIGHT)) as client:
        return [key for key in client.scan_iter("ta:*") if user_id.encode() in key]


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


RECORD = DEFAULT_KEYS.record(ANN, GENERATION)
FORBIDDEN: list[tuple[Any, ...]] = [
    *(
        ("SET", key, "x")
        for key in (DEFAULT_KEYS.manifest, RECORD, DEFAULT_KEYS.thoughts(ANN, GENERATION))
    ),
    ("SET", DEFAULT_KEYS.model, "x"),
    ("XTRIM", DEFAULT_KEYS.log, "MAXLEN", 0),
    ("DEL", DEFAULT_KEYS.log),
    *(
        ("DEL", key)
        for key in (
            DEFAULT_KEYS.manifest,
            RECORD,
            DEFAULT_KEYS.history(ANN),
            DEFAULT_KEYS.requests,
            DEFAULT_KEYS.erasures,
        )
    ),
    ("UNLINK", RECORD),
    ("EXPIRE", RECORD, 1),
    ("GETDEL", RECORD),
    ("RENAME", RECORD, DEFAULT_KEYS.record(BOB, GENERATION)),
    ("XTRIM", DEFAULT_KEYS.history(ANN), "MAXLEN", 0),
    ("XDEL", DEFAULT_KEYS.history(ANN), "1-1"),
    ("XGROUP", "CREATE", DEFAULT_KEYS.requests, "mine", 0),
    ("GET", "somebody-else"),
    ("XADD", "somebody-else", "*", "a", "b"),
    ("EVAL", "return 1", 0),
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
]
FORBIDDEN_BY_DEPLOY: list[tuple[Any, ...]] = [
    ("XADD", DEFAULT_KEYS.manifest, "*", "a", "b"),
    ("XADD", RECORD, "*", "a", "b"),
    ("XADD", DEFAULT_KEYS.erased, "*", "a", "b"),
    ("KEYS", "*"),
]


def test_the_services_user_may_neither_write_a_record_nor_delete(
    server: RedisServer, world: NightWorld, request: pytest.FixtureRequest
) -> None:
    is_deploy = "deploy" in request.node.callspec.id
    with redis.Redis.from_url(as_user(server, SERVICE)) as client:
        for command in FORBIDDEN + (FORBIDDEN_BY_DEPLOY if is_deploy else []):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
    assert world.answered_from(ANN) == 1


def test_the_services_user_cannot_store_a_layer_or_a_manifest(
    server: RedisServer, world: NightWorld
) -> None:
    """Checked through the code that stores them, not through a list of commands."""
    other = NightWorld(as_user(server, SERVICE), world.out_dir)
    held = world.manifest()
    assert held is not None
    following = held.model_copy(update={"epoch": 2})
    for attempt in (
        lambda: other.launch(other.think(2, USERS)),
        lambda: other.ask(lambda store: store.swap_manifest(held, following)),
        lambda: other.ask(lambda store: store.take_requests("me", count=1, wait_ms=1, idle_ms=1)),
    ):
        with pytest.raises(StoreUnavailable, match="permissions"):
            attempt()
    assert world.live() == [1]


async def test_a_wrong_password_is_an_error_that_does_not_repeat_it(server: RedisServer) -> None:
    store = RedisStore(as_user(server, SERVICE, "wr0ng"), timeout_ms=2000)
    with pytest.raises(StoreUnavailable, match="invalid username") as caught:
        await store.ping()
    assert "wr0ng" not in str(caught.value)
    await store.close()


@pytest.mark.parametrize("server", [of_deploy], indirect=True, ids=["deploy"])
def test_the_nights_user_may_do_all_that_the_night_does(
    server: RedisServer, world: NightWorld
) -> None:
    world.launch(world.think(2, USERS))
    assert world.said("rollback")["epoch"] == 3
    for command in (
        ("archive",),
        ("gc", "--keep", "1"),
        ("erase", ANN),
        ("repair",),
        ("status", "--json"),
    ):
        assert world.said(*command)
    assert keys_of(server, ANN) == []


@pytest.mark.parametrize("server", [of_deploy], indirect=True, ids=["deploy"])
async def test_the_learner_reads_what_others_wrote_and_moves_the_model_alone(
    server: RedisServer,
) -> None:
    pointer = ModelPointer(epoch=1, base="0123456789ab", written_ms=1)
    service = RedisStore(as_user(server, SERVICE), 2000)
    learner = RedisStore(as_user(server, LEARNER), 2000)
    await service.append_each({ANN: [Event("item-1", 1, "e")]})
    await service.offer_items([FedItem(item_id="new")])
    assert [each.user_id for each in (await learner.read_log(BEGINNING, 9)).events] == [ANN]
    assert (await learner.read_items(BEGINNING, 9)).items == (FedItem(item_id="new"),)
    assert (await learner.read_erasures(None)).waiting == frozenset()
    await learner.swap_model(None, pointer)
    assert await service.read_model() == pointer
    for store in (service, learner):
        with pytest.raises(StoreUnavailable, match="permissions"):
            await store.erase_user(ANN)
    with pytest.raises(StoreUnavailable, match="permissions"):
        await learner.append_events(ANN, [Event("item-2", 2, "f")])
    for store in (service, learner):
        await store.close()
