"""The admin port of a service process over a real Redis, and the effect of changes on answers."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from models.errors import InvalidInput, InvalidSettings
from models.store.manifest import Canary, Layer, Manifest, choose_target, go_to, promote, set_canary
from models.store.redis_store import RedisStore
from service.auth.api_keys import new_key
from service.settings import load_settings
from tests.fakes.service_harness import (
    GENERATION,
    RedisServer,
    ServiceProcess,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    some_prefixes,
    start_service,
    toy_release_dir,
)

NEWER = GENERATION + 1


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    server.flush()
    store = RedisStore(server.url, timeout_ms=10_000)
    await give_history(store, "user", item_ids(2))
    for generation in (GENERATION, NEWER):
        await give_record(store, "user", new_record(generation=generation))
    await activate(store, GENERATION)
    await activate(store, NEWER, epoch=2)
    yield store
    await store.close()


class Both:
    """A service and its admin port."""

    def __init__(self, process: ServiceProcess) -> None:
        self.service = httpx.Client(base_url=process.url, timeout=30)
        self.admin = httpx.Client(base_url=process.admin_url, timeout=30)

    def generation(self) -> int:
        answer = self.service.get("/recommend/user").json()
        generation: int = answer["generation"]["id"]
        return generation

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.admin.post(path, json=body)
        assert answer.status_code == 200, answer.text
        live: dict[str, Any] = answer.json()
        return live


@pytest.fixture
def both(server: RedisServer, store: RedisStore) -> Iterator[Both]:
    options = ["--release", str(toy_release_dir()), "--redis", server.url]
    environ = {"THINKAHEAD_ADMIN_PORT": "0", "THINKAHEAD_REDIS_TIMEOUT_MS": "10000"}
    environ["THINKAHEAD_REQUEST_BUDGET_MS"] = "30000"
    process = ServiceProcess(*options, environ=environ)
    with process:
        both = Both(process)
        with both.service, both.admin:
            yield both
        assert process.stop() == 0


def test_rollback_and_activate_change_the_very_next_answer(both: Both) -> None:
    assert both.generation() == NEWER
    live = both.post("/rollback")
    assert both.generation() == GENERATION
    assert live["held"]["epoch"] == live["in_use"] == 3
    assert [past["epoch"] for past in live["past"]] == [2, 1]
    assert both.post("/activate", epoch=2)["in_use"] == 4
    assert both.generation() == NEWER
    refused = both.admin.post("/activate", json={"epoch": 77})
    assert (refused.status_code, refused.headers["content-type"]) == (
        409,
        "application/problem+json",
    )
    assert "epochs that the store remembers: 3, 2, 1" in refused.json()["detail"]
    assert both.admin.get("/manifest?epoch=2").status_code == 422  # not a route with parameters


def test_a_canary_grows_ends_and_goes_live(both: Both) -> None:
    assert both.admin.post("/canary", json={"percent": 5}).status_code == 409  # no target
    live = both.post("/canary", percent=99.999, epoch=1)
    assert live["held"]["canary"]["percent"] == 99.999
    assert both.generation() == GENERATION
    both.post("/canary", percent=0.0001)
    assert both.generation() == NEWER
    ended = both.admin.delete("/canary").json()
    assert "canary" not in ended["held"]
    assert both.admin.delete("/canary").status_code == 409
    both.post("/canary", percent=1, epoch=1)
    both.post("/activate")
    assert both.generation() == GENERATION
    assert both.admin.post("/activate").status_code == 409  # no canary any more
    for share in (0, 100, -1):
        assert both.admin.post("/canary", json={"percent": share}).status_code == 422


async def test_layers_whose_records_are_gone_are_not_gone_back_to(
    both: Both, store: RedisStore
) -> None:
    both.generation()
    await store.delete_records(GENERATION, ["user"])
    refused = both.admin.post("/rollback")
    assert refused.status_code == 409
    assert "none of 1 recently seen users" in refused.json()["detail"]
    assert both.generation() == NEWER


async def test_a_user_is_shown_as_the_store_holds_them(both: Both, store: RedisStore) -> None:
    shown = both.admin.get("/users/user").json()
    (layer,) = shown["layers"]
    assert layer["generation"] == NEWER
    assert [tuple(each["codes"]) for each in layer["record"]["prefixes"]] == some_prefixes()
    assert layer["record"]["paths"][1] == "Thought 1"
    assert [event["item_id"] for event in shown["history"]] == item_ids(2)
    await give_history(store, "a/b ü", item_ids(1))
    other = both.admin.get("/users/a%2Fb%20%C3%BC").json()
    assert (other["user_id"], len(other["history"])) == ("a/b ü", 1)
    assert other["layers"] == [{"generation": NEWER, "record": None, "why": "no_record"}]
    assert both.admin.get("/users/%00").status_code == 422


def test_settings_health_and_reload(both: Both) -> None:
    settings = both.admin.get("/settings").json()
    assert settings["admin_port"] == {"value": 0, "from": "environment THINKAHEAD_ADMIN_PORT"}
    health = both.admin.get("/health").json()
    assert (health["unready"], health["manifest_epoch"]) == (None, 2)
    assert both.admin.post("/reload").json()["outcome"] == "unchanged"


def test_scripts_of_web_pages_are_refused(both: Both) -> None:
    for headers in ({"Origin": "http://evil"}, {"Sec-Fetch-Mode": "no-cors"}):
        assert both.admin.post("/rollback", headers=headers).status_code == 403
    assert both.generation() == NEWER


def test_the_store_away_is_a_503(both: Both, server: RedisServer) -> None:
    server.kill()
    try:
        assert both.admin.get("/manifest").status_code == 503
        assert both.admin.get("/health").status_code == 200
    finally:
        server.start()


def test_the_service_port_knows_none_of_this(both: Both) -> None:
    for path in ("/manifest", "/settings", "/users/user"):
        assert both.service.get(path).status_code == 404
    assert both.service.post("/rollback").status_code == 404


def test_with_keys_the_admin_port_wants_the_scope_admin(
    server: RedisServer, store: RedisStore, tmp_path: Path
) -> None:
    boss, shop = new_key(), new_key()
    clients = [
        {"client": "boss", "scopes": ["admin"], "keys": [{"sha256": boss.sha256}]},
        {"client": "shop", "scopes": ["recommend"], "keys": [{"sha256": shop.sha256}]},
    ]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"clients": clients}))
    environ = {
        "THINKAHEAD_ADMIN_PORT": "0",
        "THINKAHEAD_KEYS_FILE": str(tmp_path / "keys.yaml"),
        "THINKAHEAD_REDIS_TIMEOUT_MS": "10000",
    }
    options = ["--release", str(toy_release_dir()), "--redis", server.url]
    with ServiceProcess(*options, environ=environ) as process:
        statuses = [
            httpx.get(
                f"{process.admin_url}/manifest", headers={"X-Api-Key": key}, timeout=30
            ).status_code
            for key in (boss.key, shop.key, "")
        ]
        assert statuses == [200, 403, 401]
        assert process.stop() == 0


def test_an_admin_port_that_others_reach_takes_keys_and_no_excuse() -> None:
    arguments = ["--release", "x"]
    environ = {"THINKAHEAD_ADMIN_PORT": "1", "THINKAHEAD_ADMIN_HOST": "0.0.0.0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environ | {"THINKAHEAD_OPEN_ACCESS": "true"}).items():
            patch.setenv(name, value)
        with pytest.raises(InvalidSettings, match=r"admin_host 0\.0\.0\.0"):
            load_settings(arguments, environ)


def test_a_taken_admin_port_is_one_line(server: RedisServer) -> None:
    environ = {"THINKAHEAD_ADMIN_PORT": server.url.rpartition(":")[2].partition("/")[0]}
    process = start_service("--release", str(toy_release_dir()), "--port", "0", environ=environ)
    began_at = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 78
    assert "cannot listen on 127.0.0.1:" in errors
    assert len(errors.splitlines()) == 1
    assert time.monotonic() - began_at < 60


def layer(number: int) -> Layer:
    return Layer(generation=number, created_at=0, users=1)


def manifest(epoch: int, *numbers: int, canary: tuple[int, ...] = ()) -> Manifest:
    *deltas, base = map(layer, numbers)
    return Manifest(
        epoch=epoch,
        fingerprint=1,
        base=base,
        deltas=tuple(deltas),
        release="toy",
        canary=Canary(percent=5, layers=tuple(map(layer, canary))) if canary else None,
    )


def test_a_second_rollback_goes_further_back() -> None:
    past = [manifest(3, 3), manifest(2, 2), manifest(1, 1)]
    first = go_to(choose_target(manifest(4, 4), past), manifest(4, 4), seen=0)
    assert (first.epoch, first.base.generation) == (5, 3)
    assert choose_target(first, [manifest(4, 4), *past]).base.generation == 2
    with pytest.raises(InvalidInput, match="nothing to roll back to"):
        choose_target(manifest(9, 1), past)


def test_every_change_takes_an_epoch_above_all_that_was_seen() -> None:
    held = manifest(4, 4, canary=(5, 4))
    for new in (promote(held, seen=9), set_canary(held, 7, layers_of=None, seen=9)):
        assert new.epoch == 10
    assert promote(held, seen=0).layers == (layer(5), layer(4))
    with pytest.raises(InvalidInput, match="no canary"):
        promote(manifest(4, 4), seen=0)
    with pytest.raises(InvalidInput, match="offline activate"):
        promote(manifest(4, 4, canary=(8, 7, 6, 5)), seen=0)
