"""`python -m service check`: a real process over the toy release, with and without a store."""

import json
import os
import subprocess
import sys
from pathlib import Path

from models.store.redis_store import RedisStore
from tests import ROOT
from tests.fakes.service_harness import GENERATION, RedisServer, activate, toy_release_dir


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("THINKAHEAD_")}
    return subprocess.run(
        [sys.executable, "-m", "service", "check", *arguments],
        cwd=ROOT,
        env=inherited,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_all_is_well_and_every_setting_is_shown_with_its_origin(
    server: RedisServer, tmp_path: Path
) -> None:
    store = RedisStore(server.url, timeout_ms=10_000)
    await activate(store, GENERATION, epoch=3)
    await store.close()
    file = tmp_path / "service.yaml"
    file.write_text(f"release_dir: {toy_release_dir()}\nredis_timeout_ms: 5000\n")
    done = check("--json", "--config", str(file), "--redis", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["ok"]
    found = {each["name"]: each for each in report["checks"]}
    assert all(each["ok"] for each in found.values())
    assert f"epoch 3 is live, generation {GENERATION}" in found["store"]["why"]
    assert "toy@" in found["release"]["why"]
    assert report["settings"]["redis_timeout_ms"] == {"value": 5000, "from": str(file)}
    assert report["settings"]["redis_url"] == {"value": server.url, "from": "command line"}
    assert "admin store" not in found
    assert report["settings"]["port"] == {"value": 8000, "from": "default"}


def test_an_absent_store_is_one_failing_line_and_offline_does_not_ask() -> None:
    options = ["--release", str(toy_release_dir()), "--redis", "redis://ann:pw@127.0.0.1:1/0"]
    away = check(*options)
    assert away.returncode == 75
    assert [line for line in away.stdout.splitlines() if line.startswith("FAIL  store")]
    assert "ann:***@" in away.stdout
    assert "ann:pw@" not in away.stdout
    assert check("--offline", *options).returncode == 0


def test_the_admin_ports_own_way_to_the_store_is_looked_at_too(
    server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("admin_redis_url: redis://boss:pw@127.0.0.1:1/0\n")
    done = check("--config", str(file), "--release", str(toy_release_dir()), "--redis", server.url)
    assert done.returncode == 75
    assert [line.split()[0] for line in done.stdout.splitlines()[-2:]] == ["ok", "FAIL"]
    assert "pw@" not in done.stdout


def test_a_bad_release_fails_and_the_store_is_looked_at_all_the_same(
    server: RedisServer, tmp_path: Path
) -> None:
    done = check("--release", str(tmp_path), "--redis", server.url)
    assert done.returncode == 78
    assert [line.split()[:2] for line in done.stdout.splitlines()[-4:]] == [
        ["ok", "settings"],
        ["FAIL", "release"],
        ["ok", "keys"],
        ["ok", "store"],
    ]


def test_a_misspelt_setting_is_one_line_on_stderr(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("queue_limits: 3\n")
    done = check("--config", str(file))
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == (
        f"service: {file}: queue_limits is not a setting; did you mean queue_limit?\n"
    )
