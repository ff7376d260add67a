"""A fault proxy in a child process.

Knows the proxy's command line and its control socket.
"""

import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

from bench.chaos.faults.fault import Fault
from bench.chaos.faults.fault_proxy import HOST
from bench.load.http_connection import Address
from models.errors import InvalidSettings

_SWITCH_TIMEOUT_S = 10.0


class ProxyProcess:
    """A proxy in a child process; ends with its `with` block or with this process."""

    def __init__(self, upstream: Address) -> None:
        place = f"{upstream.host}:{upstream.port}"
        self._command = [
            sys.executable,
            "-m",
            "bench.chaos.faults.fault_proxy",
            "--upstream",
            place,
        ]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        ports = self._process.stdout.readline().split()
        self.port = int(ports[0])
        self._control = socket.create_connection((HOST, int(ports[1])), _SWITCH_TIMEOUT_S)
        return self

    def switch(self, fault: Fault) -> None:
        """Set the proxy's fault, in force on return. Raises InvalidSettings with its error."""
        self._control.sendall(fault.encode())
        with self._control.makefile("rb") as said:
            if (answer := said.readline().strip()) != b"ok":
                raise InvalidSettings(f"fault proxy: {answer.decode() or 'no answer'}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._control.close()
        self._process.terminate()
        self._process.communicate()
