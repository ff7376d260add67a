"""Work in a thread that does not keep its process alive."""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Made = TypeVar("Made")


def in_background(make: Callable[[], Made], *, niceness: int = 0) -> "Future[Made]":
    """Start a call in a thread of its own; the future has what it returns or raises.

    niceness: added to that of the thread, where threads have one of their own (Linux).
    """
    future: Future[Made] = Future()

    def run() -> None:
        if niceness:
            _yield_to_others(niceness)
        try:
            future.set_result(make())
        except Exception as exc:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


def _yield_to_others(niceness: int) -> None:
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        mine = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, mine + niceness)
