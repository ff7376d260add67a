"""API keys: their stored form, access, rate limits, and changes of the file."""

import asyncio
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.errors import InvalidSettings
from service.auth.api_keys import Bucket, KeyRing, Scope, new_key, read_keys
from service.settings import ServiceSettings, load_settings
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import InProcess, serving, start_service, toy_release_dir

SHOP, EVENTS, OLD, SLOW = (new_key() for _ in range(4))
DAY = 86_400


def stored(made: Any, **more: Any) -> dict[str, Any]:
    return {"sha256": made.sha256, **more}


def client(name: str, scopes: list[str], *keys: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"client": name, "scopes": scopes, "keys": list(keys), **more}


def write_keys(folder: Path, *clients: dict[str, Any]) -> Path:
    file = folder / "keys.yaml"
    file.write_text(yaml.safe_dump({"clients": list(clients)}))
    return file


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return write_keys(
        tmp_path,
        client("shop", ["recommend"], stored(SHOP), stored(OLD, expires="2001-01-01")),
        client("tracker", ["events"], stored(EVENTS)),
        client("slow", ["recommend"], stored(SLOW), rate_per_s=0.01, burst=2),
    )


async def ask(service: InProcess, key: str | None, path: str = "/recommend/user") -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    return await service.client.get(path, headers=headers)


async def test_a_key_lets_in_by_either_header_and_only_for_its_scope(keys_file: Path) -> None:
    async with serving(MemoryStore(), keys_file=keys_file) as service:
        assert (await ask(service, SHOP.key)).status_code == 200
        by_name = await service.client.get("/recommend/user", headers={"X-Api-Key": SHOP.key})
        assert by_name.status_code == 200
        refused = await ask(service, EVENTS.key)
        assert refused.status_code == 403
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["detail"] == "the API key of tracker lacks the scope `recommend`"
        event = {"item_id": "x"}
        taken = await service.client.post(
            "/events/user", json=event, headers={"X-Api-Key": EVENTS.key}
        )
        assert taken.status_code == 200
        assert refused.json()["request_id"] == refused.headers["x-request-id"]


@pytest.mark.parametrize(
    ("key", "detail"),
    [
        (None, "an API key is needed"),
        ("", "an API key is needed"),
        ("ta_nobody", "unknown or has expired"),
        (SHOP.sha256, "unknown or has expired"),  # the stored hash is no key
        (SHOP.key[:-1], "unknown or has expired"),
        (OLD.key, "unknown or has expired"),
    ],
    ids=["none", "empty", "unknown", "hash", "cut", "expired"],  # equal in every xdist worker
)
async def test_without_a_live_key_nobody_gets_in(
    keys_file: Path, key: str | None, detail: str
) -> None:
    async with serving(MemoryStore(), keys_file=keys_file) as service:
        refused = await ask(service, key)
        assert (refused.status_code, refused.json()["status"]) == (401, 401)
        assert detail in refused.json()["detail"]
        assert refused.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/recommend", "/nothing", "/v1/nothing", "//recommend/user", "/"])
async def test_what_is_no_route_wants_a_key_too(keys_file: Path, path: str) -> None:
    """A route that a later version adds is closed until somebody says which scope it needs."""
    async with serving(MemoryStore(), keys_file=keys_file) as service:
        assert (await service.client.get(f"http://service{path}")).status_code == 401
        assert (await ask(service, EVENTS.key, f"http://service{path}")).status_code in (403, 404)


@pytest.mark.parametrize("path", ["/health/live", "/metrics", "/openapi.json", "/docs"])
async def test_health_metrics_and_documents_are_open(keys_file: Path, path: str) -> None:
    async with serving(MemoryStore(), keys_file=keys_file) as service:
        assert (await ask(service, None, path)).status_code == 200


async def test_beyond_its_rate_a_client_gets_429_and_is_told_when(keys_file: Path) -> None:
    async with serving(MemoryStore(), keys_file=keys_file) as service:
        answers = [await ask(service, SLOW.key) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["ratelimit-policy"] == '"client";q=2;w=200'
        assert answers[0].headers["ratelimit"].startswith('"client";r=1;t=')
        assert 99 <= int(answers[2].headers["retry-after"]) <= 100
        assert (await ask(service, SHOP.key)).status_code == 200
        sample = 'thinkahead_client_requests_total{client="slow",outcome="%s"}'
        assert await service.metric(sample % "taken") == 2
        assert await service.metric(sample % "rate") == 1


def test_a_bucket_grants_its_burst_and_then_its_rate() -> None:
    now = [0.0]
    bucket = Bucket(10, 5, lambda: now[0])
    granted = 0
    for step in range(2001):  # 200 requests a second for 10 seconds
        now[0] = step / 200
        granted += bucket.take().is_granted
    assert granted == pytest.approx(5 + 10 * 10, abs=1)
    assert bucket.take().reset_s <= 0.1


def test_a_key_expires_with_its_day(tmp_path: Path) -> None:
    file = write_keys(tmp_path, client("a", ["recommend"], stored(SHOP, expires="1970-01-11")))
    now = [10 * DAY - 1.0]
    ring = KeyRing(file, wall=lambda: now[0])
    assert ring.find(SHOP.key) is not None
    now[0] += 1
    assert ring.find(SHOP.key) is None


def test_a_key_is_rotated_without_a_restart(tmp_path: Path) -> None:
    """Both keys live together and share a bucket; then the old one goes."""
    limits = {"rate_per_s": 1, "burst": 3}
    ring = KeyRing(write_keys(tmp_path, client("a", ["recommend"], stored(OLD), **limits)))
    first = ring.find(OLD.key)
    assert first is not None
    assert first.bucket is not None
    first.bucket.take()
    write_keys(tmp_path, client("a", ["recommend"], stored(OLD), stored(SHOP), **limits))
    assert ring.refresh()
    both = [ring.find(each.key) for each in (OLD, SHOP)]
    assert [caller is not None and caller.bucket for caller in both] == [first.bucket] * 2
    write_keys(tmp_path, client("a", ["recommend"], stored(SHOP), **limits))
    assert ring.refresh()
    assert ring.find(OLD.key) is None
    assert not ring.refresh()


def test_a_bad_new_file_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    file = write_keys(tmp_path, client("a", ["recommend"], stored(SHOP)))
    ring = KeyRing(file)
    file.write_text("clients: [")
    assert not ring.refresh()
    assert ring.failure is not None
    assert ring.find(SHOP.key) is not None
    file.unlink()
    assert not ring.refresh()
    assert ring.find(SHOP.key) is not None
    write_keys(tmp_path, client("a", ["recommend"], stored(OLD)))
    assert ring.refresh()
    assert ring.find(SHOP.key) is None


async def test_a_service_looks_at_its_file_by_itself(keys_file: Path) -> None:
    async with serving(MemoryStore(), keys_file=keys_file) as service:
        assert (await ask(service, SHOP.key)).status_code == 200
        write_keys(keys_file.parent, client("other", ["recommend"], stored(EVENTS)))
        for _ in range(300):
            if (answer := await ask(service, SHOP.key)).status_code == 401:
                break
            await asyncio.sleep(0.02)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("clients", "why"),
    [
        ([client("a", ["recommend"], *(stored(new_key()) for _ in range(3)))], "keys: .*at most 2"),
        ([client("a", ["recommend"])], "clients.0.keys"),
        ([client("a", ["everything"], stored(SHOP))], "clients.0.scopes"),
        (
            [client("a", ["events"], stored(SHOP)), client("a", ["events"], stored(OLD))],
            "the same name",
        ),
        ([client("a", ["events"], stored(SHOP), stored(SHOP))], "a key occurs twice"),
        ([client("a", ["events"], {"sha256": SHOP.key})], "clients.0.keys.0.sha256"),
        ([client("a", ["events"], stored(SHOP, expires="soon"))], "clients.0.keys.0.expires"),
        ([client("a b", ["events"], stored(SHOP))], "clients.0.client"),
    ],
)
def test_a_bad_file_is_refused_by_place(
    tmp_path: Path, clients: list[dict[str, Any]], why: str
) -> None:
    file = write_keys(tmp_path, *clients)
    with pytest.raises(InvalidSettings, match=why) as caught:
        read_keys(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_new_key_is_shown_once_and_its_lines_go_into_the_file(tmp_path: Path) -> None:
    done = run_keys("--client", "shop", "--scopes", "recommend", "events", "--days", "30")
    assert done.returncode == 0, done.stderr
    (key,) = re.findall(r"ta_[A-Za-z0-9_-]{43}", done.stdout)
    lines = done.stdout[done.stdout.index("  - client:") :]
    file = tmp_path / "keys.yaml"
    file.write_text("clients:\n" + lines)
    assert hashlib.sha256(key.encode()).hexdigest() in file.read_text()
    assert key not in file.read_text()
    caller = KeyRing(file).find(key)
    assert caller is not None
    assert caller.client == "shop"
    assert caller.scopes == {Scope.RECOMMEND, Scope.EVENTS}


def test_a_client_without_a_sound_name_gets_no_key() -> None:
    done = run_keys("--client", "a b", "--scopes", "events")
    assert (done.returncode, done.stdout) == (78, "")
    assert "client" in done.stderr


def run_keys(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "keys", "new", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


@pytest.mark.parametrize(
    ("option", "value"), [("--rate-per-s", "inf"), ("--days", "9999999"), ("--days", "99999999999")]
)
def test_a_key_without_sense_is_not_made(option: str, value: str) -> None:
    done = run_keys("--client", "shop", "--scopes", "events", option, value)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)


def test_a_host_that_others_reach_wants_keys_or_a_word() -> None:
    arguments = ["--release", "x", "--host", "0.0.0.0"]
    with pytest.raises(InvalidSettings, match=r"0\.0\.0\.0.*no API keys.*open_access=true"):
        load_settings(arguments, {})
    given: dict[str, Any] = {"release_dir": "x", "host": "0.0.0.0"}
    assert ServiceSettings(**given, open_access=True).host == "0.0.0.0"
    assert ServiceSettings(**given, keys_file="keys.yaml").host == "0.0.0.0"


def test_a_service_with_an_unusable_file_of_keys_does_not_start(tmp_path: Path) -> None:
    environ = {"THINKAHEAD_KEYS_FILE": str(tmp_path / "none.yaml")}
    options = ["--release", str(toy_release_dir()), "--redis", "redis://127.0.0.1:1/0"]
    process = start_service(*options, "--port", "0", environ=environ)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 78
    assert errors.splitlines()[-1].endswith("none.yaml: cannot be read: No such file or directory")


async def test_the_document_says_how_keys_are_sent_and_refused() -> None:
    async with serving(MemoryStore()) as service:
        document = (await service.client.get("/openapi.json")).json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}
    recommend = document["paths"]["/recommend/{user_id}"]["get"]
    assert {"401", "403", "429"} <= recommend["responses"].keys()
    assert {"bearer": []} in recommend["security"]
    for status in ("401", "403", "429"):
        problem = recommend["responses"][status]["content"]["application/problem+json"]
        assert problem["example"]["status"] == int(status)
    assert "security" not in document["paths"]["/health/live"]["get"]
