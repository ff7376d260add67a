"""Use of the embedded server: one real Valkey per state folder, shared by processes.

    STATE/redis/users.lock     held shared by every user, exclusively by a watcher that stops
    STATE/redis/start.lock     held by the process that starts the watcher or waits for its end
    STATE/redis/watcher.lock   held by the watcher as long as it lives
    STATE/redis/server.lock    held by the watcher and its server
    STATE/redis/socket         path at which the server listens
    STATE/redis/data/          data of the server (append-only file)

A user is a process that uses the server. The first user starts a detached watcher (`watcher.py`),
every user starts it again if it dies, and the last one to leave waits until it has stopped the
server. Locks are flock(2), which the kernel drops when a process dies: a killed user has left.
Knows nothing of keys or records.
"""

import fcntl
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from models.errors import InvalidSettings, StoreUnavailable
from models.store.redis_url import read_redis_url

logger = logging.getLogger(__name__)

PROJECT_ROOT = Path(__file__).resolve().parents[2]
_INSTALLED = ("site-packages", "dist-packages")  # names of PROJECT_ROOT without a clone

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.02
_CARE_S = 1.0
_MAX_SPAWNS = 2


class Attachment:
    """Use of one server, embedded or not. `with` calls `leave`, which may be called twice."""

    def __init__(self, url: str, *, membership: "Membership | None" = None) -> None:
        self.url = url
        self._membership = membership

    def leave(self) -> None:
        """End the use. The last user of an embedded server returns after it has stopped."""
        membership, self._membership = self._membership, None
        if membership is not None:
            membership.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()


class Membership:
    """The lock that one user holds, and the thread that keeps a watcher alive."""

    def __init__(self, root: Path, users_fd: int) -> None:
        self._root = root
        self._users_fd = users_fd
        self._has_ended = threading.Event()
        self._carer = threading.Thread(target=self._care, name="embedded-server", daemon=True)
        self._carer.start()

    def end(self) -> None:
        self._has_ended.set()
        self._carer.join(_STOP_TIMEOUT_S)
        fcntl.flock(self._users_fd, fcntl.LOCK_UN)  # also in processes forked from this one
        os.close(self._users_fd)
        _await_stop(self._root)

    def _care(self) -> None:
        """Start another watcher if it was killed; an old server has died or is stopped by it."""
        while not self._has_ended.wait(_CARE_S):
            try:
                if not is_held(self._root, "watcher"):
                    logger.warning("the embedded server lost its watcher; starting another")
                    _ensure_running(self._root, time.monotonic() + _START_TIMEOUT_S)
            except FileNotFoundError:
                return  # the folder was deleted
            except (StoreUnavailable, OSError) as exc:
                logger.warning("%s", exc)


def resolve(redis_url: str | None, state_dir: Path | None) -> Attachment:
    """Choose the server to use: the given URL, THINKAHEAD_REDIS_URL, or the embedded one.

    Raises:
        InvalidSettings: the URL is not valid, or the state folder cannot be written.
        StoreUnavailable: the embedded server does not start.
    """
    url = redis_url or os.environ.get("THINKAHEAD_REDIS_URL")
    if not url:
        return attach(state_folder(state_dir))
    read_redis_url(url)
    return Attachment(url)


def state_folder(state_dir: Path | None) -> Path:
    """Return the given folder, THINKAHEAD_STATE_DIR, or `.state` in the project.

    An installed package has no project: its folder is `think-ahead` in the state folder of the
    user, ~/.local/state.
    """
    given = state_dir or os.environ.get("THINKAHEAD_STATE_DIR")
    if given:
        return Path(given)
    if PROJECT_ROOT.name not in _INSTALLED:
        return PROJECT_ROOT / ".state"
    of_user = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(of_user) / "think-ahead"


def attach(state_dir: Path) -> Attachment:
    """Use the embedded server of `state_dir`; start it if it does not run.

    Raises InvalidSettings and StoreUnavailable as `resolve`.
    """
    root = state_dir.resolve() / "redis"
    try:
        (root / "data").mkdir(parents=True, exist_ok=True)
        users_fd = open_lock(root, "users")
    except OSError as exc:
        raise InvalidSettings(f"state folder {state_dir}: {exc.strerror}") from exc
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        if not lock_until(users_fd, fcntl.LOCK_SH, deadline):
            raise StoreUnavailable(f"embedded server in {root}: the previous one does not stop")
        url = _ensure_running(root, deadline)
    except BaseException:
        os.close(users_fd)
        raise
    return Attachment(url, membership=Membership(root, users_fd))


def open_lock(root: Path, name: str) -> int:
    """Open a lock file without locking it; return its file descriptor."""
    return os.open(root / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_until(fd: int, kind: int, deadline: float) -> bool:
    """Wait for a lock until `deadline` (monotonic); return True if it was taken."""
    while not try_lock(fd, kind):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _ensure_running(root: Path, deadline: float) -> str:
    num_spawns = 0
    with _starting(root, deadline):
        while time.monotonic() < deadline:
            if not is_held(root, "watcher"):
                if num_spawns == _MAX_SPAWNS:
                    raise StoreUnavailable(f"embedded server in {root}: {_last_words(root)}")
                num_spawns += _spawn_watcher(root)
            elif (path := _listening_socket(root)) is not None:
                return f"unix://{quote(path)}"
            time.sleep(_POLL_S)
    raise StoreUnavailable(f"embedded server in {root}: no answer in time")


@contextmanager
def _starting(root: Path, deadline: float) -> Iterator[None]:
    fd = open_lock(root, "start")
    try:
        if not lock_until(fd, fcntl.LOCK_EX, deadline):
            raise StoreUnavailable(f"embedded server in {root}: another process keeps starting it")
        yield
    finally:
        os.close(fd)


def is_held(root: Path, name: str) -> bool:
    """Tell if any process holds this lock."""
    fd = open_lock(root, name)
    try:
        return not try_lock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def _spawn_watcher(root: Path) -> bool:
    """Start a watcher that inherits the open file of its lock, and so holds it from the start."""
    fd = open_lock(root, "watcher")
    try:
        if not try_lock(fd, fcntl.LOCK_EX):
            return False  # another process is checking the lock at this moment
        (root / "socket").unlink(missing_ok=True)  # an old server may still listen there
        with (root / "server.log").open("wb") as log:
            subprocess.run(  # returns at once: the watcher forks and detaches
                [sys.executable, "-m", "models.store.watcher", str(root)],
                check=False,
                cwd=PROJECT_ROOT,
                pass_fds=(fd,),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return True
    finally:
        os.close(fd)


def _listening_socket(root: Path) -> str | None:
    """Return the path of the server's socket if the server answers there."""
    try:
        path = (root / "socket").read_text()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            return path if connection.recv(64).startswith(b"+PONG") else None
    except OSError:
        return None


def _last_words(root: Path) -> str:
    lines = (root / "server.log").read_text(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f"{said[-1] if said else 'it does not start'} (see {root / 'server.log'})"


def _await_stop(root: Path) -> None:
    """Return once there are other users, or the watcher and its server have stopped."""
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    try:
        with _starting(root, deadline):
            while time.monotonic() < deadline and not _is_settled(root):
                time.sleep(_POLL_S)
    except (StoreUnavailable, FileNotFoundError):
        return  # another user starts it, or the folder is gone: the watcher notices both


def _is_settled(root: Path) -> bool:
    fd = open_lock(root, "users")
    try:
        if try_lock(fd, fcntl.LOCK_EX):
            return not is_held(root, "watcher") and not is_held(root, "server")
        return try_lock(fd, fcntl.LOCK_SH)  # others hold it shared; a stopping watcher would not
    finally:
        os.close(fd)
