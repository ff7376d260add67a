"""The API keeps what its OpenAPI document promises, whatever is sent: a real process and Redis."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from models.store import RedisStore
from tests.api_fuzz import fuzz_api
from tests.service_harness import (
    GENERATION,
    RedisServer,
    ServiceProcess,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    toy_release_dir,
)

PATIENCE = {"THINKAHEAD_REDIS_TIMEOUT_MS": "2000", "THINKAHEAD_REQUEST_BUDGET_MS": "5000"}


async def furnish(url: str) -> None:
    """The user of the document's examples has a record and a history."""
    store = RedisStore(url, 5000)
    await give_record(store, "A2CG5Y82ZZNY6W", new_record())
    await give_history(store, "A2CG5Y82ZZNY6W", item_ids(3))
    await activate(store, GENERATION)
    await store.close()


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        asyncio.run(furnish(server.url))
        arguments = ("--release", str(toy_release_dir()), "--redis", server.url)
        with ServiceProcess(*arguments, environ=PATIENCE) as service:
            num_routes = len(
                [
                    method
                    for path in httpx.get(f"{service.url}/openapi.json").json()["paths"].values()
                    for method in path
                ]
            )
            found = fuzz_api(service.url, tmp_path / "fuzz", max_examples=12)
            assert found.is_clean, found.report
            assert re.search(rf"Tested: {num_routes}\b", found.report), found.report
            assert service.stop() == 0
        assert not [line for line in service.log if "Traceback" in line]
