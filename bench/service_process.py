"""A service process of our own, as an operator would start it: `python -m service ...`.

Knows the public command, the readiness route and signals. Knows nothing of what is asked.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.1


class StepFailedError(Exception):
    """A process did not do what it is there for; the text says which and why."""


class ServiceProcess:
    """Runs from `with` to its end, on a free port of the loopback interface."""

    def __init__(self, arguments: Sequence[str], *, log: Path) -> None:
        """`log` takes what the process prints."""
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "service", *arguments, "--port", str(port)]
        self._log = log

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as stream:
            self._process = subprocess.Popen(self._command, stdout=stream, stderr=subprocess.STDOUT)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_until_ready(self) -> None:
        """Raises StepFailedError if the process ends first or takes too long."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health/ready").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(_POLL_S)
        raise StepFailedError(f"the service is not ready: {self._last_line()} (see {self._log})")

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
