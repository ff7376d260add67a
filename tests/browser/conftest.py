"""A Chromium, and two real services: the bundled release after a night, and one of bad titles."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from models.release.publish import publish
from models.store.embedded import attach
from tests import ROOT
from tests.fakes.service_harness import RedisServer, ServiceProcess, furnish_redis
from tests.fakes.toy import toy_catalog, toy_histories, toy_memory, toy_recommender

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page  # only in .venv-browser

RELEASE = ROOT / "releases" / "beauty"
NUM_USERS = 6
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
PATIENT = {
    "THINKAHEAD_REDIS_TIMEOUT_MS": "10000",
    "THINKAHEAD_REQUEST_BUDGET_MS": "30000",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Shop:
    """A running service over a real store."""

    url: str
    admin_url: str
    store: str
    folder: Path  # of the nights
    users: tuple[str, ...]


def run(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The bundled release over an embedded store, after a real night for a few real users."""
    folder = tmp_path_factory.mktemp("shop")
    users = some_users(folder / "data")
    with attach(folder / "state") as server:
        store = ["--redis", server.url]
        run("offline", "import", "--data", str(folder / "data"), *store)
        night = ["--release", str(RELEASE), "--users", "all", "--out", str(folder / "nights")]
        run("offline", "refresh", *night, *store)
        environ = PATIENT | {"THINKAHEAD_ADMIN_PORT": "0"}
        with ServiceProcess("--release", str(RELEASE), *store, environ=environ) as service:
            yield Shop(service.url, service.admin_url, server.url, folder / "nights", users)


def some_users(folder: Path) -> tuple[str, ...]:
    """Write the data of a few users with the longest histories; return their ids."""
    folder.mkdir()
    shutil.copy(ROOT / "data" / "beauty" / "items.parquet", folder)
    table = pq.read_table(ROOT / "data" / "beauty" / "interactions.parquet")
    counts = table.group_by("user_id").aggregate([("pos", "count")]).sort_by("pos_count")
    users = tuple(counts["user_id"].to_pylist()[-NUM_USERS:])
    kept = [each in users for each in table["user_id"].to_pylist()]
    pq.write_table(table.filter(kept), folder / "interactions.parquet")
    return users


@pytest.fixture(scope="session")
def hostile_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service whose titles, brands, categories and one user id are markup."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "no-reasoner").mkdir()
    catalog = toy_catalog()
    marked = replace(
        catalog,
        titles=tuple(f"{HOSTILE}{row}" for row in range(len(catalog))),
        brands=(HOSTILE,) * len(catalog),
        categories=((HOSTILE, HOSTILE),) * len(catalog),
    )
    publish(
        folder / "toy",
        name="toy",
        catalog=marked,
        recommender=toy_recommender(marked),
        reasoner_dir=folder / "no-reasoner",
        histories=toy_histories(marked),
        recipe={},
        metrics={},
        card="",
        memory=toy_memory(marked),
    )
    (folder / "redis").mkdir()
    with RedisServer(folder / "redis") as server:
        with ThreadPoolExecutor(1) as pool:  # Playwright has an event loop in this thread
            pool.submit(asyncio.run, furnish_redis(server.url, users=(HOSTILE,))).result()
        arguments = ["--release", str(folder / "toy"), "--redis", server.url]
        with ServiceProcess(*arguments, environ=PATIENT) as service:
            yield service.url


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.exit("no Chromium found: apt-get install chromium, or set CHROMIUM=/path", 1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def new_page(browser: "Browser", *, width: int = 1400, scheme: str = "light") -> Iterator["Page"]:
    """A page that may ask nothing of another host and report nothing to its console."""
    viewport = {"width": width, "height": 1000 if width > 500 else 844}
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: set[str] = set()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.add(request.url.split("/")[2]))
    page.set_default_timeout(30_000)
    yield page
    assert said == []
    assert {host.partition(":")[0] for host in asked} <= {"127.0.0.1"}
    context.close()


@pytest.fixture
def page(browser: "Browser") -> Iterator["Page"]:
    with new_page(browser) as page:
        yield page
