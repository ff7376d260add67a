"""The embedded server's life, with real processes that are really killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from models.errors import InvalidSettings, StoreUnavailable
from models.store.embedded import PROJECT_ROOT, attach, is_held, resolve

_USER = """
import sys
from pathlib import Path
from models.store.embedded import attach
with attach(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.readline()
"""


class User:
    """A process of its own that uses the server until told to leave."""

    def __init__(self, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _USER, str(state)],
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate("\n", timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    wait_until(lambda: is_stopped(tmp_path))


@pytest.fixture
def start_user(state: Path) -> Iterator[Callable[[], User]]:
    users = []

    def start() -> User:
        users.append(User(state))
        return users[-1]

    yield start
    for user in users:
        user.kill()


def wait_until(claim: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_stopped(state: Path) -> bool:
    root = state / "redis"
    return not root.exists() or not (is_held(root, "watcher") or is_held(root, "server"))


def server_pid(state: Path) -> int:
    return int((state / "redis" / "server.pid").read_text())


def watcher_pid(state: Path) -> int:
    status = Path(f"/proc/{server_pid(state)}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def is_alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def put(url: str, key: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(key, "kept")


def has(url: str, key: str) -> bool:
    with redis.Redis.from_url(url) as client:
        return bool(client.get(key) == b"kept")


def test_users_share_one_server_and_the_last_to_leave_stops_it(state: Path) -> None:
    first, second = attach(state), attach(state)
    assert first.url == second.url
    pid = server_pid(state)
    first.leave()
    assert answers(second.url)
    second.leave()
    assert not is_alive(pid)
    assert not answers(second.url)
    second.leave()


def test_data_outlives_the_server(state: Path) -> None:
    with attach(state) as server:
        put(server.url, "a")
    with attach(state) as server:
        assert has(server.url, "a")


def test_two_processes_that_start_at_the_same_moment_share_one_server(
    state: Path, start_user: Callable[[], User]
) -> None:
    users = [start_user() for _ in range(3)]
    assert len({user.url() for user in users}) == 1
    pid = server_pid(state)
    for user in users:
        assert is_alive(pid)
        user.leave()
    assert not is_alive(pid)


def test_a_killed_last_user_leaves_no_orphan_and_loses_nothing(
    state: Path, start_user: Callable[[], User]
) -> None:
    user = start_user()
    put(user.url(), "a")
    pid = server_pid(state)
    user.kill()
    wait_until(lambda: not is_alive(pid), seconds=10)
    with attach(state) as server:
        assert has(server.url, "a")


def test_a_killed_user_does_not_stop_the_server_for_others(
    state: Path, start_user: Callable[[], User]
) -> None:
    user = start_user()
    user.url()
    with attach(state) as server:
        pid = server_pid(state)
        user.kill()
        time.sleep(0.5)
        assert is_alive(pid)
        assert answers(server.url)


def test_a_killed_server_comes_back_with_its_data_while_users_remain(state: Path) -> None:
    with attach(state) as server:
        put(server.url, "a")
        os.kill(server_pid(state), signal.SIGKILL)
        wait_until(lambda: answers(server.url))
        assert has(server.url, "a")
        second = server_pid(state)
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: answers(server.url))


def test_a_killed_watcher_is_replaced_while_users_remain(state: Path) -> None:
    with attach(state) as server:
        put(server.url, "a")
        old = server_pid(state)
        os.kill(watcher_pid(state), signal.SIGKILL)
        wait_until(lambda: server_pid(state) != old)
        wait_until(lambda: answers(server.url))
        assert not is_alive(old)
        assert has(server.url, "a")


def test_a_server_that_outlives_its_watcher_gives_way_to_a_new_one(state: Path) -> None:
    with attach(state) as server:
        put(server.url, "a")
        old = server_pid(state)
        os.kill(old, signal.SIGSTOP)  # so that it cannot act on its watcher's death
        os.kill(watcher_pid(state), signal.SIGKILL)
        wait_until(lambda: server_pid(state) != old, seconds=30)
        wait_until(lambda: answers(server.url))
        assert not is_alive(old)
        assert has(server.url, "a")


def test_every_process_killed_at_once_loses_nothing(
    state: Path, start_user: Callable[[], User]
) -> None:
    user = start_user()
    put(user.url(), "a")
    pid = server_pid(state)
    for victim in (watcher_pid(state), pid):
        os.kill(victim, signal.SIGKILL)
    user.kill()
    wait_until(lambda: is_stopped(state))
    with attach(state) as server:
        assert has(server.url, "a")


def test_leaving_and_coming_at_once_never_finds_a_dead_server(
    state: Path, start_user: Callable[[], User]
) -> None:
    for _ in range(5):
        with attach(state) as server:
            assert answers(server.url)
        user = start_user()
        assert answers(user.url())
        user.leave()


def test_a_deleted_state_folder_starts_afresh_and_leaves_no_orphan(state: Path) -> None:
    old = attach(state)
    pid = server_pid(state)
    (state / "redis").rename(state / "away")
    with attach(state) as server:
        assert server.url != old.url
        wait_until(lambda: not is_alive(pid))
        assert answers(server.url)
    old.leave()


def test_a_server_that_cannot_start_is_one_line_that_names_its_log(state: Path) -> None:
    appendonly = state / "redis" / "data" / "appendonlydir"
    appendonly.mkdir(parents=True)
    (appendonly / "appendonly.aof.manifest").write_text("garbage\n")
    with pytest.raises(StoreUnavailable, match=r"server\.log") as caught:
        attach(state)
    assert "\n" not in str(caught.value)


def test_a_state_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, match="state folder"):
        attach(tmp_path / "file")


def test_a_long_temporary_folder_still_gives_a_short_socket_path(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_folder = state / ("long" * 30)
    long_folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(long_folder))
    with attach(state) as server:
        assert answers(server.url)


def test_the_socket_is_for_this_user_alone(state: Path) -> None:
    with attach(state) as server:
        path = Path(server.url.removeprefix("unix://"))
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0


def test_a_given_url_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THINKAHEAD_REDIS_URL", "redis://from-environment/0")
    assert resolve("redis://given/1", tmp_path).url == "redis://given/1"
    with resolve(None, tmp_path) as server:
        assert server.url == "redis://from-environment/0"
    assert not (tmp_path / "redis").exists()


def test_a_url_of_another_kind_is_refused_without_repeating_its_password() -> None:
    with pytest.raises(InvalidSettings) as caught:
        resolve("http://:secret@host", None)
    assert "secret" not in str(caught.value)


def test_the_state_folder_comes_from_the_environment(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THINKAHEAD_REDIS_URL", raising=False)
    monkeypatch.setenv("THINKAHEAD_STATE_DIR", str(state))
    with resolve(None, None) as server:
        assert answers(server.url)
        assert (state / "redis" / "data").is_dir()
