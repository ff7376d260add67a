"""`python -m service --release DIR [--redis URL] [--host H] [--port P] [--config FILE]`.

`python -m service check` tests whether the service would start, and lists every setting.
`python -m service keys new` makes an API key.

SIGHUP reloads the release directory and the release directories of experiment arms. A reloaded
release is served if it is valid and has the same SID space.

Exit codes:
    0   after SIGTERM or SIGINT, when the requests in flight are answered (see `server`)
    75  the embedded Redis server does not start; one line on stderr
    78  settings or release are invalid; one line on stderr
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING

from models.errors import (
    InvalidInput,
    InvalidRelease,
    InvalidSettings,
    StoreUnavailable,
    ThinkAheadError,
)
from models.store.embedded import resolve
from service.auth.api_keys import KeyRing
from service.settings import EffectiveSettings, resolve_settings
from service.telemetry import logs

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.serving import Serving

EX_TEMPFAIL = 75
EX_CONFIG = 78
# Seconds after which a thread that waits for the interpreter gets it. Requests change threads
# several times, and would wait 5 ms each time, the default, while another thread reads a new base.
_SWITCH_S = 0.0005
_COMMANDS = {"check": "service.check", "keys": "service.auth.new_key"}  # no command: serve
logger = logging.getLogger("service")


def main(arguments: Sequence[str]) -> int:
    _stop_on_signals()
    try:
        if arguments and arguments[0] in _COMMANDS:
            code: int = import_module(_COMMANDS[arguments[0]]).main(arguments[1:])
            return code
        _serve(resolve_settings(arguments, os.environ))
    except (InvalidInput, InvalidRelease) as exc:
        return _report_error(exc, EX_CONFIG)
    except StoreUnavailable as exc:
        return _report_error(exc, EX_TEMPFAIL)
    return 0


def _serve(effective: EffectiveSettings) -> None:
    """Serve until a signal arrives. Every error is raised before the first request is served."""
    settings = effective.settings
    sys.setswitchinterval(_SWITCH_S)
    with ExitStack() as opened:
        listener = opened.enter_context(_bind(settings.host, settings.port))
        admin_listener = None
        if settings.admin_port is not None:
            admin_listener = opened.enter_context(_bind(settings.admin_host, settings.admin_port))
        ring = KeyRing(settings.keys_file) if settings.keys_file else None
        # Imported here: they take a second, and invalid settings are rejected before that.
        from models.store.redis_store import RedisStore
        from service.admin import admin_beside
        from service.app import create_app
        from service.recommend.engine import limit_garbage_collection
        from service.reload import load_arms, load_configured
        from service.server import raise_open_file_limit

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
            timeout_ms=settings.redis_timeout_ms,
            log_limit=settings.event_log_limit,
        )
        limit_garbage_collection()
        logs.configure(settings.log_format)  # not earlier: a failed start prints one line only
        if admin_listener is not None:
            logger.info("admin at http://%s:%d", *admin_listener.getsockname()[:2])
        logger.info("%s on http://%s:%d", engine.label, *listener.getsockname()[:2])
        admin_store = partial(open_store, settings.admin_redis_url or server.url)
        app = create_app(
            settings,
            engine=engine,
            store=open_store(server.url),
            arms=arms,
            ring=ring,
            spans=spans,
            beside=admin_beside(admin_listener, admin_store, effective, ring),
        )
        if spans is not None:
            opened.callback(spans.close)
        _run(app, listener, grace_s=settings.drain_grace_ms / 1000)


def _run(app: "FastAPI", listener: socket.socket, *, grace_s: float) -> None:
    from service.server import Server

    serving: Serving = app.state.serving
    signal.signal(signal.SIGHUP, lambda _number, _frame: serving.reload_soon())
    server = Server(
        app,
        gate=serving.gate,
        write_popular=app.state.write_popular,
        grace_s=grace_s,
        on_end=serving.drain,
    )
    server.run(sockets=[listener])


def _bind(host: str, port: int) -> socket.socket:
    """Bind a socket, without listening on it.

    Binding early reports a port in use as one line, and the log can name the port chosen for
    port 0. The socket starts to listen after the release is loaded; before that, connections are
    refused instead of queued. Raises InvalidSettings.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise InvalidSettings(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    return listener


def _stop_on_signals() -> None:
    """Exit through SystemExit, so that every open resource is closed.

    uvicorn drains on a signal and then raises the same signal again.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_in_order)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the first load of the release is still to come


def _exit_in_order(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _report_error(exc: ThinkAheadError, code: int) -> int:
    print(f"service: {' '.join(str(exc).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
