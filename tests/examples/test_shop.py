"""The shop's backend over a real service, and without one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from examples.shop import shop
from tests import ROOT
from tests.fakes.service_harness import (
    RedisServer,
    ServiceProcess,
    furnish_redis,
    item_ids,
    toy_release_dir,
)
from thinkahead_client import Options

pytestmark = pytest.mark.system


@asynccontextmanager
async def visitor(monkeypatch: pytest.MonkeyPatch, url: str) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("SHOP_RECOMMENDER", url)
    transport = httpx.ASGITransport(shop.app)
    async with (
        shop.lifespan(shop.app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        yield client


def test_a_click_is_in_no_later_page(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(furnish_redis(server.url, ["known"]))
    arguments = ["--release", str(toy_release_dir()), "--redis", server.url]
    monkeypatch.setattr(shop, "Options", lambda **given: Options(**{**given, "timeout_s": 60}))

    async def visit(url: str) -> None:
        async with visitor(monkeypatch, url) as client:
            page = (await client.get("/home/known?n=3")).json()
            assert page["why"] == "personal"
            clicked = page["items"][0]
            told = await client.post("/click/known", json={"item_id": clicked})
            assert told.json() == {"stored": True}
            assert clicked not in (await client.get("/home/known?n=3")).json()["items"]

    with ServiceProcess(*arguments) as service:
        asyncio.run(visit(service.url))


async def test_without_the_service_there_is_still_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async with visitor(monkeypatch, "http://127.0.0.1:9") as client:
        page = (await client.get("/home/7")).json()
        assert page == {"items": shop.BESTSELLERS, "why": "Unreachable"}
        told = await client.post("/click/7", json={"item_id": item_ids(1)[0]})
        assert told.json() == {"stored": False}


def test_the_backend_is_short() -> None:
    assert len((ROOT / "examples/shop/shop.py").read_text().splitlines()) <= 55
