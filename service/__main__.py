"""`python -m service --release DIR [--redis URL] [--host H] [--port P] [--workers N] ...`.

`python -m service check` tests whether the service would start, and lists every setting.
`python -m service keys new` makes an API key.

SIGHUP reloads the release directory and the release directories of experiment arms. A reloaded
release is served if it is valid and has the same SID space. Several workers do so one after the
other.

Exit codes:
    0   after SIGTERM or SIGINT, when the requests in flight are answered (see `server`)
    75  the embedded Redis server does not start; one line on stderr
    78  settings or release are invalid; one line on stderr
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from types import FrameType

from models.errors import (
    InvalidInput,
    InvalidRelease,
    StoreUnavailable,
    ThinkAheadError,
)
from service.settings import EffectiveSettings, resolve_settings
from service.workers.listeners import bind
from service.workers.supervisor import supervise

EX_TEMPFAIL = 75
EX_CONFIG = 78
_COMMANDS = {  # no command: serve
    "check": "service.check",
    "keys": "service.auth.new_key",
    "worker": "service.process",
}


def main(arguments: Sequence[str]) -> int:
    _stop_on_signals()
    try:
        if arguments and arguments[0] in _COMMANDS:
            code: int = import_module(_COMMANDS[arguments[0]]).main(arguments[1:])
            return code
        return _serve(resolve_settings(arguments, os.environ))
    except (InvalidInput, InvalidRelease) as exc:
        return _report_error(exc, EX_CONFIG)
    except StoreUnavailable as exc:
        return _report_error(exc, EX_TEMPFAIL)


def _serve(effective: EffectiveSettings) -> int:
    """Serve until a signal arrives; return the exit code."""
    settings = effective.settings
    if settings.workers > 1:
        return supervise(effective)
    with ExitStack() as opened:
        public = opened.enter_context(bind(settings.host, settings.port))
        admin = None
        if settings.admin_port is not None:
            admin = opened.enter_context(bind(settings.admin_host, settings.admin_port))
        # Imported here: it takes a second, and invalid settings are rejected before that.
        from service.process import Listeners, serve

        serve(effective, Listeners(public, admin))
    return 0


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
