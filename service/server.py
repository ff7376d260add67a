"""uvicorn servers: the public one with graceful shutdown, and one for the admin port.

Shutdown of the public server:

    SIGTERM   Readiness is 503 at once, and responses say `Connection: close`. Requests are still
              answered during the grace period, while load balancers notice.
    then      No new connections. Requests in flight end within END_S of the signal.
    SIGINT    As SIGTERM, without the grace period.

Knows processes and signals; knows nothing of the application.
"""

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from service.limits.connections import MAX_CONNECTIONS, Connection
from service.limits.flood_gate import FloodGate
from service.limits.replies import Rejections, WritePopular

END_S = 8.0  # then resources are released, within 10 s of the signal
_KEEP_ALIVE_S = 75  # longer than a load balancer's idle time; otherwise it sees random 502s
_OTHER_FILES = 512  # file descriptors that are not client connections


class Server(uvicorn.Server):
    """The public uvicorn server.

    Args:
        app: ASGI application.
        gate: decides on requests under overload.
        write_popular: writes `popular` answers for the gate.
        grace_s: seconds between SIGTERM and closing connections.
        on_end: called once, by the signal handler, when shutdown begins.
        on_listening: awaited once the sockets listen.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        gate: FloodGate,
        write_popular: WritePopular,
        grace_s: float,
        on_end: Callable[[], None],
        on_listening: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        connect = partial(
            Connection,
            gate=gate,
            rejections=Rejections(retry_after_s=gate.settings.retry_after_s),
            write_popular=write_popular,
        )
        config = uvicorn.Config(
            app,
            http=cast("Any", connect),  # uvicorn calls it like the class
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the caller's address is not used
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE_S,
            # typed as int, but passed to asyncio unchanged
            timeout_graceful_shutdown=cast("Any", END_S - grace_s),
        )
        super().__init__(config)
        self._grace_s = grace_s
        self._on_end = on_end
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_listening is not None:
            await self._on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT:
            self._grace_s = 0.0
        if not self.should_exit:
            self._on_end()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.sleep(self._grace_s)
        await super().shutdown(sockets)


def raise_open_file_limit() -> None:
    """Raise the limit of open files to MAX_CONNECTIONS and a reserve, or to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _AdminServer(uvicorn.Server):
    """A uvicorn server without signal handlers: the public server handles signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve_beside(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve `app` in the running event loop. At the end, requests in flight have one second."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = _AdminServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
