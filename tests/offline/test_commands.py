"""The command line of `offline` over a real embedded server: output and exit codes."""

import asyncio
import json
import shutil
import signal
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from models.release.release import Release
from models.store.embedded import attach
from models.store.redis_store import RedisStore
from offline.disk.shards import read_rows
from tests.fakes.offline_command import OfflineCommand
from tests.fakes.toy import toy_catalog
from tests.fakes.toy_night import NUM_USERS, write_data


def test_import_refresh_and_status_over_a_real_server(
    state: Path, release: Release, data_dir: Path, call: OfflineCommand
) -> None:
    code, out, _ = call("import", "--data", data_dir)
    assert (code, json.loads(out)["users"]) == (0, NUM_USERS)
    code, out, err = call("refresh", "--release", release.directory, "--paths", 8, "--width", 4)
    summary = json.loads(out)
    assert code == 0
    assert "users/s" in err
    assert summary["refreshed"] + summary["empty"] == NUM_USERS
    assert summary["refreshed"] > NUM_USERS / 2
    assert 0 < summary["prefixes_per_user"] <= 32
    assert Path(summary["shards"]).parent == state / "generations"
    rows = list(read_rows(Path(summary["shards"])))
    assert len(rows) == summary["refreshed"]
    legal = {tuple(codes) for codes in release.catalog.trie.prefixes().tolist()}
    assert all(prefix.codes in legal for row in rows for prefix in row.thoughts.prefixes)
    paths = [(prefix.path, len(r.thoughts.texts)) for r in rows for prefix in r.thoughts.prefixes]
    assert all(path is None or path < num_texts for path, num_texts in paths)
    assert any(path is None for path, _ in paths)
    assert any(path is not None for path, _ in paths)
    code, out, _ = call("status", "--json")
    assert (code, json.loads(out)["layers"][0]["users"]) == (0, summary["refreshed"])


def test_a_namespace_has_users_a_manifest_and_a_folder_of_its_own(
    state: Path,
    release: Release,
    data_dir: Path,
    call: OfflineCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call("import", "--data", data_dir)
    night = ("refresh", "--release", release.directory, "--paths", 8, "--width", 4)
    assert call(*night, "--namespace", "mine")[0] == 78  # it has no users yet
    monkeypatch.setenv("THINKAHEAD_NAMESPACE", "mine")
    assert call("import", "--data", data_dir)[0] == 0
    code, out, _ = call(*night)
    assert (code, json.loads(out)["users_chosen"]) == (0, NUM_USERS)
    assert Path(json.loads(out)["shards"]).parent == state / "generations-mine"
    code, out, _ = call("status", "--json", "--namespace", "")
    assert json.loads(out)["layers"] == []
    code, _, err = call("status", "--namespace", "A B")
    assert (code, "expected up to 32 characters of a-z" in err) == (78, True)


def test_the_worker_thinks_about_whom_it_was_asked_for(
    state: Path, release: Release, data_dir: Path, call: OfflineCommand
) -> None:
    call("import", "--data", data_dir)
    with attach(state) as server:
        store = RedisStore(server.url, 5000)

        async def ask() -> None:
            for user in ("user-03", "user-04", "user-05"):
                await store.request_thinking(user, "something for a friend")
            await store.close()

        asyncio.run(ask())
    code, out, _ = call(
        *("worker", "--release", release.directory, "--once", "--paths", 8, "--width", 4)
    )
    served = json.loads(out)
    assert (code, served["requests"]) == (0, 3)
    assert served["users"] > 0
    code, out, _ = call("status", "--json")
    assert json.loads(out)["generations"][0]["layer"] == "on demand"


@pytest.mark.parametrize("engine", ["transformers", "vllm", "ray"])
def test_a_worker_without_a_reasoner_says_so_at_once(
    engine: str,
    release: Release,
    tmp_path: Path,
    call: OfflineCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker once hung: without such a folder, transformers took `toy/reasoner` for a
    repository on the Hub, and asked for it again and again."""
    monkeypatch.chdir(tmp_path)
    manifest = json.loads((release.directory / "manifest.json").read_text())
    shutil.copytree(release.directory, "toy", ignore=shutil.ignore_patterns("reasoner"))
    files = {name: at for name, at in manifest["files"].items() if "reasoner" not in name}
    Path("toy/manifest.json").write_text(json.dumps({**manifest, "files": files}))
    code, out, err = call("worker", "--release", "toy", "--engine", engine)
    assert (code, out) == (78, "")
    assert err == "offline: toy/reasoner: no config.json, expected a reasoner\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: command"),
        (["nonsense"], "invalid choice"),
        (["import"], "--data"),
        (["import", "--data", "x", "--colour", "red"], "--colour"),
        (["refresh"], "--release"),
        (["refresh", "--release", "x", "--users", "0"], "argument --users: '0'"),
        (["refresh", "--release", "x", "--users", "some"], "'some', expected"),
        (["refresh", "--release", "x", "--paths", "65"], "1..64"),
        (["refresh", "--release", "x", "--width", "-1"], "--width"),
        (["refresh", "--release", "x", "--seed", "1.5"], "'1.5'"),
        (["status", "--redis", "http://host"], "expected redis://"),
        (["status", "--redis", "redis://host:port"], "redis://host:port"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_78(
    arguments: list[str], complaint: str, call: OfflineCommand
) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (78, "")
    assert complaint in err
    assert err.startswith("offline: ")
    assert err.count("\n") == 1


def test_a_bad_data_folder_is_one_line_and_exit_78(
    state: Path, tmp_path: Path, data_dir: Path, call: OfflineCommand
) -> None:
    code, _, err = call("import", "--data", tmp_path / "nowhere")
    assert (code, err.strip().splitlines()[-1].startswith("offline: ")) == (78, True)
    num_rows = pq.read_metadata(data_dir / "interactions.parquet").num_rows
    write_data(data_dir, toy_catalog(), user_id=["bad\nid"] * num_rows, pos=list(range(num_rows)))
    code, _, err = call("import", "--data", data_dir)
    assert code == 78
    assert "control character" in err.strip().splitlines()[-1]


def test_a_bad_release_is_one_line_and_exit_78(
    state: Path, tmp_path: Path, call: OfflineCommand
) -> None:
    code, out, err = call("refresh", "--release", tmp_path / "nowhere")
    assert (code, out) == (78, "")
    assert "manifest.json" in err.strip().splitlines()[-1]


def test_a_refresh_before_any_import_says_so(
    state: Path, release: Release, call: OfflineCommand
) -> None:
    code, _, err = call("refresh", "--release", release.directory)
    assert code == 78
    assert "python -m offline import" in err


def test_a_store_that_is_away_is_one_line_and_exit_75(
    release: Release, data_dir: Path, call: OfflineCommand
) -> None:
    away = "redis://127.0.0.1:1/0"
    for arguments in (
        ["status"],
        ["import", "--data", data_dir],
        ["refresh", "--release", release.directory],
    ):
        code, out, err = call(*arguments, "--redis", away)
        assert (code, out) == (75, "")
        assert "Redis at redis://127.0.0.1:1/0" in err.strip().splitlines()[-1]


def test_an_output_folder_that_cannot_be_written_is_one_line_and_exit_75(
    state: Path,
    release: Release,
    data_dir: Path,
    tmp_path: Path,
    call: OfflineCommand,
) -> None:
    call("import", "--data", data_dir)
    (tmp_path / "file").write_text("")
    code, _, err = call("refresh", "--release", release.directory, "--out", tmp_path / "file")
    assert code == 75
    assert str(tmp_path / "file") in err.strip().splitlines()[-1]


@pytest.mark.system
def test_ctrl_c_in_the_middle_of_a_night_leaves_what_was_live(
    state: Path, release: Release, data_dir: Path, call: OfflineCommand
) -> None:
    call("import", "--data", data_dir)
    call("refresh", "--release", release.directory, "--users", 3, "--paths", 8)
    before = json.loads(call("status", "--json")[1])
    is_done = threading.Event()

    def interrupt_the_thinking() -> None:
        while not is_done.wait(0.01):
            if len(list((state / "generations").glob("[0-9]*"))) == 2:
                is_done.wait(0.3)  # past the reading of the histories
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    watching = threading.Thread(target=interrupt_the_thinking)
    watching.start()
    code, out, err = call("refresh", "--release", release.directory, "--paths", 64, "--width", 60)
    is_done.set()
    watching.join()
    assert (code, out) == (130, "")
    assert err.strip().splitlines()[-1].startswith("offline: interrupted")
    after = json.loads(call("status", "--json")[1])
    assert (after["epoch"], before["epoch"]) == (1, 1)
