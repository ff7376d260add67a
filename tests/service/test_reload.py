"""Another release in the place of the one that serves: under load, without a failed request."""

import asyncio
import dataclasses
import json
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.catalog.catalog import Catalog, build_catalog
from models.catalog.dataset import ItemText
from models.catalog.sid import SidSpace
from models.release.publish import publish
from models.release.release import Release
from service.reload import load_configured, renew
from service.settings import ServiceSettings
from tests.fakes.service_harness import (
    GENERATION,
    RedisServer,
    ServiceProcess,
    furnish_redis,
    read_metric,
    some_prefixes,
    toy_engine,
    toy_release_dir,
)
from tests.fakes.toy import toy_histories, toy_memory, toy_recommender

# Processes start slowly on a machine that is busy with other work.
pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
USERS = tuple(f"user-{at}" for at in range(5))
PREFIX = some_prefixes(1)[0]


def changed_catalog(*, added: str, withdrawn: str, space: SidSpace | None = None) -> Catalog:
    """The toy catalog without one item, and with a new one below PREFIX."""
    old = toy_engine().catalog
    sids = {
        item_id: tuple(sid)
        for item_id, sid in zip(old.item_ids, old.sids.tolist(), strict=True)
        if item_id != withdrawn
    }
    taken = {sid[2] for sid in sids.values() if sid[:2] == PREFIX}
    sids[added] = (*PREFIX, next(code for code in range(16) if code not in taken))
    texts = {item_id: ItemText(f"Title of {item_id}", None, ("Beauty",)) for item_id in sids}
    return build_catalog(space or old.space, sids, texts, dict.fromkeys(sids, 1))


def put_release(directory: Path, catalog: Catalog) -> Release:
    nothing = directory.with_name("no-reasoner")
    nothing.mkdir(exist_ok=True)
    return publish(
        directory,
        name="toy",
        catalog=catalog,
        recommender=toy_recommender(catalog),
        reasoner_dir=nothing,
        histories=toy_histories(catalog),
        recipe={},
        metrics={},
        card="another",
        memory=toy_memory(catalog),
    )


@pytest.fixture
def release_dir(tmp_path: Path) -> Path:
    shutil.copytree(toy_release_dir(), tmp_path / "release")
    return tmp_path / "release"


@pytest.fixture
def server(own_server: RedisServer) -> RedisServer:
    return own_server


class Load:
    """Requests one after another, on a thread, until told to stop."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, num_more: int) -> None:
        wanted, deadline = len(self.answers) + num_more, time.monotonic() + 90
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._stop.is_set():
                for user in USERS:
                    answer = client.get(f"/recommend/{user}", params={"n": 100})
                    self.answers.append((answer.status_code, answer.json()))


def until_reloaded(client: httpx.Client, outcome: str, count: int = 1) -> None:
    deadline = time.monotonic() + 90
    sample = f'thinkahead_reloads_total{{outcome="{outcome}"}}'
    while read_metric(client.get("/metrics").text, sample) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_new_release_takes_over_under_load(release_dir: Path, server: RedisServer) -> None:
    """Records carry over: an item added below a known prefix is recommended without a new night."""
    asyncio.run(furnish_redis(server.url, USERS, prefixes=[PREFIX], num_items=2))
    withdrawn = toy_engine().catalog.item_ids[0]
    old_label = toy_engine().label
    environ = {"THINKAHEAD_REQUEST_BUDGET_MS": "10000"}
    with (
        ServiceProcess(
            "--release", str(release_dir), "--redis", server.url, environ=environ
        ) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
        Load(service.url) as load,
    ):
        load.wait_for(50)
        new = put_release(release_dir, changed_catalog(added="new", withdrawn=withdrawn))
        service.process.send_signal(signal.SIGHUP)
        until_reloaded(client, "taken")
        load.wait_for(50)
        new_label = f"{new.name}@{new.version}"
        assert client.get("/health/ready").json()["release"] == new_label
        service.process.send_signal(signal.SIGHUP)
        until_reloaded(client, "unchanged")
        load.wait_for(10)
    assert {status for status, _ in load.answers} == {200}
    by_release: dict[str, list[dict[str, Any]]] = {}
    for _, answer in load.answers:
        by_release.setdefault(answer["release"], []).append(answer)
    assert list(by_release) == [old_label, new_label]
    for label, holds_new, holds_withdrawn in ((old_label, False, True), (new_label, True, False)):
        for answer in by_release[label]:
            items = {item["item_id"]: item for item in answer["items"]}
            assert answer["source"] == "personal"
            assert ("new" in items) == holds_new
            assert (withdrawn in items) <= holds_withdrawn
            assert items.get("new", {"source": "personal"})["source"] == "personal"
            assert answer["generation"]["id"] == GENERATION


def test_a_bad_release_is_refused_and_the_old_one_stays(
    release_dir: Path, server: RedisServer
) -> None:
    asyncio.run(furnish_redis(server.url, USERS, prefixes=[PREFIX], num_items=2))
    with (
        ServiceProcess("--release", str(release_dir), "--redis", server.url) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
        Load(service.url) as load,
    ):
        load.wait_for(10)
        catalog = release_dir / "catalog.parquet"
        catalog.write_bytes(catalog.read_bytes()[:-100])
        service.process.send_signal(signal.SIGHUP)
        until_reloaded(client, "refused")
        load.wait_for(10)
        assert client.get("/health/ready").json()["release"] == toy_engine().label
        load.stop()
        assert service.stop() == 0
    assert any(f"reload of {release_dir} refused" in line for line in service.log)
    assert {status for status, _ in load.answers} == {200}


def test_an_arms_release_is_looked_at_again_too(release_dir: Path, server: RedisServer) -> None:
    """A new one takes over in its arm alone; one that does not verify leaves the arm as it was."""
    asyncio.run(furnish_redis(server.url, USERS, prefixes=[PREFIX], num_items=2))
    of_arm = release_dir.with_name("of-arm")
    shutil.copytree(release_dir, of_arm)
    toy = toy_engine().label
    with (
        ServiceProcess(
            *("--release", str(release_dir), "--redis", server.url),
            *("--config", str(half_on(of_arm))),
        ) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        assert releases_by_arm(client) == {"new": {toy}, "old": {toy}}
        new = put_release(of_arm, changed_catalog(added="new", withdrawn="item-0"))
        for number, outcome in enumerate(("taken", "refused"), start=1):
            service.process.send_signal(signal.SIGHUP)
            until_reloaded(client, outcome)
            assert releases_by_arm(client) == {"new": {f"{new.name}@{new.version}"}, "old": {toy}}
            until_reloaded(client, "unchanged", number)  # the service's own
            catalog = of_arm / "catalog.parquet"
            catalog.write_bytes(catalog.read_bytes()[:-100])
        assert service.stop() == 0
    assert any(f"reload of {of_arm} refused" in line for line in service.log)


def half_on(release_dir: Path) -> Path:
    """A configuration in which half of the users are served from this release."""
    arms = [{"name": "old"}, {"name": "new", "release": str(release_dir)}]
    file = release_dir.with_name("service.yaml")
    file.write_text(json.dumps({"experiments": [{"name": "half", "share": 1, "arms": arms}]}))
    return file


def releases_by_arm(client: httpx.Client) -> dict[str, set[str]]:
    """Releases that answer, by arm. Few requests: nobody reads the pipe of the log."""
    found: dict[str, set[str]] = {}
    for user in USERS:
        answer = client.get(f"/recommend/{user}").json()
        (exposure,) = answer["experiment"]
        found.setdefault(exposure["arm"], set()).add(answer["release"])
    return found


def settings_for(release_dir: Path) -> ServiceSettings:
    return ServiceSettings(release_dir=release_dir)


def test_a_release_of_another_sid_space_is_refused(
    release_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    current = load_configured(settings_for(release_dir))
    other = dataclasses.replace(current.catalog.space, codebook="retrained")
    put_release(release_dir, changed_catalog(added="new", withdrawn="item-0", space=other))
    renewal = renew(settings_for(release_dir), current, release_dir)
    assert (renewal.engine, renewal.outcome) == (current, "refused")
    assert "SID space fingerprint" in caplog.text


def test_a_release_that_fails_its_self_test_is_refused(
    release_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    current = load_configured(settings_for(release_dir))
    manifest = json.loads((release_dir / "manifest.json").read_text())
    (release_dir / "manifest.json").write_text(json.dumps(manifest | {"global_prefixes": []}))
    renewal = renew(settings_for(release_dir), current, release_dir)
    assert (renewal.engine, renewal.outcome) == (current, "refused")
    assert "no item is found below the global prefixes" in caplog.text


def test_a_missing_directory_is_refused(release_dir: Path) -> None:
    current = load_configured(settings_for(release_dir))
    shutil.rmtree(release_dir)
    assert renew(settings_for(release_dir), current, release_dir).outcome == "refused"
