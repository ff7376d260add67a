"""One serving process: release, store, application and sockets, until a signal arrives.

It serves alone, or as a worker of a supervisor (`python -m service worker FD`, which nobody types).
"""

import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

from fastapi import FastAPI

from models.store.embedded import resolve
from models.store.redis_store import RedisStore
from service.admin import admin_beside
from service.app import create_app
from service.auth.api_keys import KeyRing
from service.recommend.engine import limit_garbage_collection
from service.reload import load_arms, load_configured
from service.server import Server, raise_open_file_limit
from service.serving import Serving
from service.settings import EffectiveSettings
from service.telemetry import logs
from service.workers.assignment import read_assignment
from service.workers.crew import Crew

# Seconds after which a thread that waits for the interpreter gets it. Requests change threads
# several times, and would wait 5 ms each time, the default, while another thread reads a new base.
_SWITCH_S = 0.0005
logger = logging.getLogger("service")


class Listeners(NamedTuple):
    """Bound sockets; `serve` closes them."""

    public: socket.socket
    admin: socket.socket | None


def main(arguments: Sequence[str]) -> int:
    """Serve as the worker whose channel has this file descriptor."""
    end = socket.socket(fileno=int(arguments[0]))
    try:
        assignment = read_assignment(end)
    except EOFError:
        return 0
    assignment.move_to_core()
    listeners = Listeners(assignment.open_listener(), assignment.open_admin_listener())
    serve(assignment.effective, listeners, Crew(end))
    return 0


def serve(effective: EffectiveSettings, listeners: Listeners, crew: Crew | None = None) -> None:
    """Serve until a signal arrives. Every error is raised before the first request is served.

    crew: the other workers; None for a process alone.
    """
    settings = effective.settings
    sys.setswitchinterval(_SWITCH_S)
    with ExitStack() as opened:
        for listener in filter(None, listeners):
            opened.enter_context(listener)
        ring = KeyRing(settings.keys_file) if settings.keys_file else None
        raise_open_file_limit()
        spans = None
        if settings.otel:
            from service.telemetry.otel import otlp_recorder

            spans = otlp_recorder()
        engine = load_configured(settings)
        arms = load_arms(settings, engine)
        server = opened.enter_context(resolve(settings.redis_url, settings.state_dir))
        open_store = partial(
            RedisStore,
            namespace=settings.namespace,
            timeout_ms=settings.redis_timeout_ms,
            log_limit=settings.event_log_limit,
        )
        limit_garbage_collection()
        logs.configure(settings.log_format)  # not earlier: a failed start prints one line only
        if listeners.admin is not None:
            logger.info("admin at http://%s:%d", *listeners.admin.getsockname()[:2])
        logger.info("%s on http://%s:%d", engine.label, *listeners.public.getsockname()[:2])
        admin_store = partial(open_store, settings.admin_redis_url or server.url)
        admin = admin_beside(listeners.admin, admin_store, effective, ring, crew)
        app = create_app(
            settings,
            engine=engine,
            store=open_store(server.url),
            arms=arms,
            ring=ring,
            spans=spans,
            crew=crew,
            beside=admin if crew is None else _in_crew(crew, admin),
        )
        if spans is not None:
            opened.callback(spans.close)
        _run(app, listeners.public, crew, grace_s=settings.drain_grace_ms / 1000)


def _run(app: FastAPI, listener: socket.socket, crew: Crew | None, *, grace_s: float) -> None:
    serving: Serving = app.state.serving
    signal.signal(signal.SIGHUP, lambda _number, _frame: serving.reload_soon())
    server = Server(
        app,
        gate=serving.gate,
        write_popular=app.state.write_popular,
        grace_s=grace_s,
        on_end=serving.drain,
        on_listening=crew.report_serving if crew is not None else None,
    )
    server.run(sockets=[listener])


def _in_crew(
    crew: Crew, beside: Callable[[Serving], AbstractAsyncContextManager[object]]
) -> Callable[[Serving], AbstractAsyncContextManager[object]]:
    """Return a context manager that joins the crew, and enters another one behind the self-test.

    A worker listens behind it: connections come only to workers that have passed the test.
    """

    @asynccontextmanager
    async def joined(serving: Serving) -> AsyncIterator[None]:
        async def ping() -> None: ...

        async def snapshot() -> object:
            return serving.metrics.snapshot()

        answers = {"ping": ping, "snapshot": snapshot, "reload": serving.reload}
        async with crew.join(answers):
            await serving.until_tested()
            async with beside(serving):
                yield

    return joined
