"""uvicorn, and how it ends: first unready, then drained, then gone.

    SIGTERM   readiness is 503 at once and answers say `Connection: close`; for the grace, while
              load balancers notice, requests are answered as ever
    then      no new connections; requests in flight end, within END_S of the signal
    SIGINT    the same without the grace

Knows processes and signals; nothing of what is served.
"""

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from service.limits.connections import MAX_CONNECTIONS, Connection
from service.limits.flood_gate import Guard

END_S = 8.0  # and what is held is let go of after that, within 10 s of the signal
_KEEP_ALIVE_S = 75  # longer than a load balancer's idle time, else random 502s
_OTHER_FILES = 512  # descriptors that are no clients


class Server(uvicorn.Server):
    """on_end: called once, by the signal handler, when the process is told to end."""

    def __init__(
        self, app: ASGIApp, *, guard: Guard, grace_s: float, on_end: Callable[[], None]
    ) -> None:
        config = uvicorn.Config(
            app,
            http=cast("Any", partial(Connection, guard=guard)),  # called like the class
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here looks at the caller's address
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=cast("Any", END_S - grace_s),  # passed to asyncio as it is
        )
        super().__init__(config)
        self._grace_s = grace_s
        self._on_end = on_end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT:
            self._grace_s = 0.0
        if not self.should_exit:
            self._on_end()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.sleep(self._grace_s)
        await super().shutdown(sockets)


def allow_connections() -> None:
    """As many open files as that takes, where the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
