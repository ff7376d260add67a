"""The page `/explore`: its files, the data behind it, and the callers that it keeps out."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from models.catalog.catalog import Catalog
from models.store.gate_report import GateReport, Verdict
from models.store.keys import DEFAULT_KEYS
from service import admin
from service.auth.api_keys import new_key
from service.explore.item_search import ItemSearch
from service.explore.page_files import POLICY
from service.explore.same_origin import FOREIGN_HOST, FOREIGN_PAGE
from service.settings import EffectiveSettings, ServiceSettings
from tests import ROOT
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    GENERATION,
    InProcess,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    serving,
    some_prefixes,
    toy_engine,
)

FILES = sorted((ROOT / "service" / "explore" / "page").iterdir())
NEWER = GENERATION + 1
HOSTILE = "<img src=x onerror=alert(1)></script>"


@pytest.fixture
async def page(service: InProcess) -> httpx.AsyncClient:
    """A client that calls as the page does."""
    service.client.headers.update({"host": "127.0.0.1:8000", "sec-fetch-site": "same-origin"})
    return service.client


async def read(page: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await page.get(f"/explore/api/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_page_comes_with_a_policy_that_allows_nothing_inline(
    page: httpx.AsyncClient,
) -> None:
    assert "unsafe" not in POLICY
    for path in ("/explore", "/docs"):
        answer = await page.get(path)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"] == POLICY
    for file in FILES:
        part = await page.get(f"/explore/page/{file.name}")
        assert (part.status_code, part.content) == (200, file.read_bytes())
        assert part.headers["content-security-policy"] == POLICY
        assert (await page.get(f"/docs/page/{file.name}")).content == file.read_bytes()
    for name in ("nothing.js", "%2e%2e%2fexplorer.py", "../explorer.py"):
        assert (await page.get(f"/explore/page/{name}")).status_code == 404


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_of_the_page_asks_nothing_from_elsewhere_and_makes_no_markup(file: Path) -> None:
    text = file.read_text()
    assert set(re.findall(r"(?:https?:)?//\w[\w./]+", text)) <= {
        "http://www.w3.org/2000/svg",  # the name of a language, no address
        "https://www.w3.org/2000/svg",
    } | set(re.findall(r"// \w.*", text))
    markup = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|srcdoc"
    assert re.findall(markup, text) == []
    assert re.findall(r"<script>|<style|\sstyle=|\son\w+=", text) == []


async def test_a_user_is_shown_with_history_thoughts_tree_and_list(
    service: InProcess, page: httpx.AsyncClient
) -> None:
    user = await read(page, "user", user_id="user", n=5)
    catalog = toy_engine().catalog
    assert [event["item_id"] for event in user["history"]] == item_ids(3)[::-1]
    assert user["history"][0]["title"] == f"Title of {item_ids(3)[-1]}"
    night = user["night"]
    assert night["thoughts"] == [f"Thought {path}" for path in range(4)]
    leaves = [leaf for node in night["tree"] for leaf in node["below"]]
    assert sorted(tuple(leaf["codes"]) for leaf in leaves) == sorted(some_prefixes())
    for leaf in leaves:
        assert leaf["num_items"] == (catalog.sids[:, :2] == leaf["codes"]).all(axis=1).sum()
        assert leaf["mostly"] == f"Kind {leaf['codes'][1]}"
    assert night["num_items"] == sum(leaf["num_items"] for leaf in leaves)
    served = await service.recommend("user", n=5)
    for shown, item in zip(user["ranked"]["items"], served["items"], strict=True):
        assert shown["because"] == [
            {"item_id": each, "title": f"Title of {each}"} | rest_of(catalog, each)
            for each in item["because"] or []
        ]
        assert {name: shown[name] for name in ("item_id", "rank", "score", "sid", "path")} == {
            name: item[name] for name in ("item_id", "rank", "score", "sid", "path")
        }
        if shown["score"] is not None:
            assert shown["model"] + shown["memory"] == pytest.approx(shown["score"])
            assert shown["reason"].endswith(".")
        if shown["source"] == "personal":
            assert shown["night"] == 0
            assert shown["prefix"] == -float(shown["path"])


def rest_of(catalog: Catalog, item_id: str) -> dict[str, Any]:
    row = catalog.row(item_id)
    assert row is not None
    return {"category": " › ".join(catalog.categories[row]), "known": True}


async def test_an_event_from_the_page_moves_the_list(page: httpx.AsyncClient) -> None:
    first = (await read(page, "user", user_id="user"))["ranked"]["items"][0]["item_id"]
    click = {"user_id": "user", "item_id": first, "type": "click"}
    taken = await page.post("/explore/api/event", json=click)
    assert taken.json() == {"stored": True, "new": True, "reason": None}
    after = await read(page, "user", user_id="user")
    assert (after["history"][0]["item_id"], after["history"][0]["type"]) == (first, "click")
    assert first not in [item["item_id"] for item in after["ranked"]["items"]]


async def test_a_wish_waits_for_a_worker(store: MemoryStore, page: httpx.AsyncClient) -> None:
    wish = {"user_id": "user", "instruction": "something for the sea"}
    assert (await page.post("/explore/api/wish", json=wish)).status_code == 200
    (request,) = await store.take_requests("worker", count=9, wait_ms=0, idle_ms=1000)
    assert (request.user_id, request.instruction) == ("user", "something for the sea")
    long = wish | {"instruction": "x" * 501}
    assert (await page.post("/explore/api/wish", json=long)).status_code == 422


async def test_users_are_found_by_their_ids_and_items_by_words_too(
    store: MemoryStore, page: httpx.AsyncClient
) -> None:
    await give_history(store, "user/2", item_ids(1))
    assert (await read(page, "find", text="us"))["users"] == ["user", "user/2"]
    assert (await read(page, "find", text="user/"))["users"] == ["user/2"]
    assert (await read(page, "find"))["users"] == ["user"]  # of the live night
    found = await read(page, "find", text="TITLE item-19")
    assert {item["item_id"] for item in found["items"]} <= {"item-19"} | {
        f"item-19{digit}" for digit in range(10)
    }
    assert len(found["items"]) == 8
    assert (await read(page, "find", text="item-190"))["items"][0]["item_id"] == "item-190"
    assert (await read(page, "find", text="tle"))["items"] == []  # no word begins like this


async def test_an_item_is_shown_with_its_neighbours(page: httpx.AsyncClient) -> None:
    neighbours = toy_engine().finisher.neighbours
    assert neighbours is not None
    catalog = toy_engine().catalog
    row = max(range(len(catalog)), key=lambda each: len(neighbours.of_row(each)))
    item = await read(page, "item", item_id=catalog.item_ids[row])
    weights = [each["weight"] for each in item["neighbours"]]
    assert weights
    assert weights == sorted(weights, reverse=True)
    assert item["sid"] == catalog.sids[row].tolist()
    assert (await page.get("/explore/api/item?item_id=nothing")).status_code == 404


async def test_two_generations_are_compared(
    store: MemoryStore, service: InProcess, page: httpx.AsyncClient
) -> None:
    other = toy_engine().catalog.trie.prefixes()[-4:].tolist()
    await give_record(
        store, "user", new_record(generation=NEWER, prefixes=[tuple(each) for each in other])
    )
    await activate(store, NEWER, epoch=2)
    await service.serving.manifest.poll()
    sides = {side["key"]: side for side in await read(page, "sides", user_id="user")}
    old = await read(page, "list", user_id="user", side=f"generation/{GENERATION}", n=3)
    new = await read(page, "list", user_id="user", side=f"generation/{NEWER}", n=3)
    assert (old["generation"], new["generation"]) == (GENERATION, NEWER)
    assert [item["sid"][:2] for item in new["items"] if item["sid"][:2] not in other] == []
    assert sides[f"generation/{GENERATION}"]["kind"] == "night"
    alone = await read(page, "list", user_id="user", side="no-night")
    assert alone["source"] == "online"
    assert (await page.get("/explore/api/list?user_id=user&side=nothing")).status_code == 422


async def test_arms_are_sides_and_looking_is_no_exposure(
    store: MemoryStore, users: None, caplog: pytest.LogCaptureFixture
) -> None:
    arms = [{"name": "control"}, {"name": "none", "generation": "none"}]
    experiment = {"name": "no-night", "share": 1, "arms": arms}
    async with serving(store, experiments=[experiment]) as service:
        service.client.headers["host"] = "localhost"
        with caplog.at_level("INFO", logger="service.exposures"):
            user = await read(service.client, "user", user_id="user")
            none = await read(service.client, "list", user_id="user", side="arm/no-night/none")
        assert caplog.text == ""
        assert user["arms"] in (["no-night: control"], ["no-night: none"])
        assert none["source"] == "online"


async def test_a_hostile_title_stays_text(store: MemoryStore, users: None) -> None:
    own = toy_engine()
    catalog = replace(own.catalog, titles=(HOSTILE,) * len(own.catalog))
    engine = type(own)(replace(own.release, catalog=catalog), own.finisher)
    async with serving(store, engine=engine) as service:
        service.client.headers["host"] = "localhost"
        answer = await service.client.get("/explore/api/user?user_id=user")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.json()["history"][0]["title"] == HOSTILE


async def test_a_store_that_is_away_is_told_and_users_are_shown_from_a_copy(
    store: MemoryStore, page: httpx.AsyncClient
) -> None:
    await read(page, "user", user_id="user")
    store.is_away = True
    assert (await page.get("/explore/api/find?text=us")).status_code == 503
    user = await read(page, "user", user_id="user")
    assert user["troubles"]
    assert user["num_events"] == 3
    status = await read(page, "status")
    assert status["release"] == toy_engine().label


async def test_the_footer_counts_users_of_other_items(
    store: MemoryStore, service: InProcess, page: httpx.AsyncClient
) -> None:
    await give_history(store, "stranger", ["of another shop"])
    await service.serving.foreign_users.look()
    status = await read(page, "status")
    assert (status["users_looked_at"], status["users_without_item"]) == (2, 1)
    assert status["night"]["generation"] == GENERATION
    assert status["learner"] is None


async def test_the_footer_shows_the_gates_of_the_live_night_alone(
    store: MemoryStore, page: httpx.AsyncClient
) -> None:
    assert (await read(page, "status"))["gates"] is None
    verdict = Verdict(name="coverage", value=0.4, expected="at least 0.5", has_passed=False)
    report = GateReport(generation=GENERATION, forced="a small night", gates=(verdict,))
    await store.write_gates(report)
    gates = (await read(page, "status"))["gates"]
    assert gates == {"verdicts": [verdict.model_dump()], "forced": "a small night"}
    await store.write_gates(report.model_copy(update={"generation": NEWER}))
    assert (await read(page, "status"))["gates"] is None
    store.values[DEFAULT_KEYS.gates] = b"no report"
    assert (await read(page, "status"))["gates"] is None


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({"sec-fetch-site": "cross-site"}, FOREIGN_PAGE),
        ({"sec-fetch-site": "same-site"}, FOREIGN_PAGE),
        ({"origin": "http://elsewhere.example"}, FOREIGN_PAGE),
        ({"origin": "http://127.0.0.1:9000"}, FOREIGN_PAGE),
        ({"host": "rebound.example:8000"}, FOREIGN_HOST),
        ({"host": ""}, FOREIGN_HOST),
    ],
)
async def test_another_page_gets_nothing(
    page: httpx.AsyncClient, headers: dict[str, str], detail: str
) -> None:
    answer = await page.get("/explore/api/user?user_id=user", headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (403, detail)
    click = {"user_id": "user", "item_id": "x"}
    assert (await page.post("/explore/api/event", json=click, headers=headers)).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "10.0.0.7"])
async def test_an_address_opens_the_page(page: httpx.AsyncClient, host: str) -> None:
    headers = {"host": host, "origin": f"http://{host}"}
    assert (await page.get("/explore/api/status", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "settings", [{"host": "0.0.0.0", "open_access": True}, {"explore": False}], ids=["open", "off"]
)
@pytest.mark.parametrize("path", ["/explore", "/explore/api/status", "/explore/page/main.js"])
async def test_an_open_port_and_a_setting_have_no_page(page: httpx.AsyncClient, path: str) -> None:
    assert (await page.get(path)).status_code == 404


async def test_with_keys_the_data_need_the_scope_admin(tmp_path: Path) -> None:
    owner, shop = new_key(), new_key()
    clients = [
        {"client": "owner", "scopes": ["admin"], "keys": [{"sha256": owner.sha256}]},
        {"client": "shop", "scopes": ["recommend"], "keys": [{"sha256": shop.sha256}]},
    ]
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"clients": clients}))
    async with serving(MemoryStore(), keys_file=file) as service:
        for path in ("/explore", "/explore/page/main.js"):
            assert (await service.client.get(path)).status_code == 200
        codes = [
            (await service.client.get("/explore/api/status", headers=headers)).status_code
            for headers in ({}, {"x-api-key": shop.key}, {"x-api-key": owner.key})
        ]
        assert codes == [401, 403, 200]
        assert (await service.client.get("/explore/other")).status_code == 401


async def test_the_admin_port_lets_the_page_in_and_no_other_script(
    store: MemoryStore, service: InProcess
) -> None:
    settings = EffectiveSettings(ServiceSettings(release_dir=Path("unused")), {})
    app = admin.create_admin(service.serving, store, settings, None)
    script = {"host": "localhost:8001", "sec-fetch-mode": "cors", "sec-fetch-site": "same-origin"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost:8001", headers=script
    ) as client:
        assert (await client.get("/explore")).status_code == 200
        assert (await client.get("/explore/api/user?user_id=user")).status_code == 200
        foreign = {"origin": "http://elsewhere.example"}
        assert (await client.get("/explore/api/status", headers=foreign)).status_code == 403
        assert (await client.get("/settings")).status_code == 403
        assert (await client.get("/exploreX")).status_code == 403


async def test_the_page_is_in_no_openapi_document(page: httpx.AsyncClient) -> None:
    paths = (await page.get("/openapi.json")).json()["paths"]
    assert [path for path in paths if "explore" in path] == []


def test_words_are_found_by_their_beginnings_and_popular_items_first() -> None:
    catalog = toy_engine().catalog
    search = ItemSearch(catalog)
    rows = search.find("title of", 20)
    counts = [int(catalog.popularity[row]) for row in rows]
    assert counts == sorted(catalog.popularity.tolist(), reverse=True)[:20]
    assert search.find("!?", 5) == []
