"""Child processes, started as an operator starts them: `python -m service ...` and others.

Knows the public commands, the readiness route, signals and CPU time. Knows nothing of requests.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

HOST = "127.0.0.1"
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.1


class StepFailedError(Exception):
    """A child process failed; the message names the process and the reason."""


def run_module(module: str, *arguments: str) -> None:
    """Run `python -m MODULE ...` until it ends. Raises StepFailedError unless it exits with 0."""
    code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if code:
        raise StepFailedError(f"python -m {module} {arguments[0]} ended with exit code {code}")


class ModuleProcess:
    """A process of `python -m MODULE ...`; runs inside a `with` block."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        log: Path,
        output: Path | None = None,
        core: int | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the process.

        Args:
            log: file for the output of the process.
            output: file for its standard output alone; None writes it into the log too.
            core: the only CPU core it may run on (Linux); None allows all.
            environ: environment variables added to those of this process.
        """
        self._command = [sys.executable, "-m", module, *arguments]
        self._log, self._output = log, output or log
        self._core = core
        self._environ = {**os.environ, **(environ or {})}

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")
        with (
            self._log.open("ab") as errors,
            self._output.open("ab") as output,
            _inherited_core(self._core),
        ):
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=errors, env=self._environ
            )
        self.started_at = time.monotonic()
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        """Send SIGTERM without waiting."""
        self._process.terminate()

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, or None if the process has not ended within `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def rss_mb(self) -> float:
        """Return the resident memory, from /proc/PID/statm (Linux)."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_seconds(self) -> float:
        """Return the CPU time of all threads so far, user and system (Linux)."""
        return _cpu_seconds(self.pid)

    def family_cpu_seconds(self) -> float:
        """Return the CPU time so far, with that of the child processes that run (Linux)."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(map(_cpu_seconds, [self.pid, *map(int, children)]))

    def resident_mb(self) -> float:
        """Return the resident memory, from /proc/PID/status (Linux)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024  # kB

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        if self.wait(_STOP_TIMEOUT_S) is None:
            self._process.kill()
            self._process.wait()

    def last_line(self) -> str:
        """Return the last line of the log, and where the log is."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (see {self._log})"


class ServiceProcess(ModuleProcess):
    """A service process on a free loopback port."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        core: int | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the process; `arguments`: of `python -m service`."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        words = [*arguments, "--port", str(self.port)]
        super().__init__("service", words, log=log, core=core, environ=environ)

    def wait_until_ready(
        self, *, poll_s: float = _POLL_S, timeout_s: float = _READY_TIMEOUT_S
    ) -> None:
        """Poll the readiness route. Raises StepFailedError if the process ends or in vain."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.wait(0) is None:
            try:
                if httpx.get(f"{self.url}/health/ready").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(poll_s)
        raise StepFailedError(f"the service is not ready: {self.last_line()}")


def _cpu_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]  # proc_pid_stat(5), fields 14 and 15
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _inherited_core(core: int | None) -> Iterator[None]:
    """Move this process to `core` inside the block: a child started there inherits the core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
