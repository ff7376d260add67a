"""Work in a thread that does not keep its process alive."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Made = TypeVar("Made")


def in_background(make: Callable[[], Made]) -> "Future[Made]":
    """Start a call in a thread of its own; the future has what it returns or raises."""
    future: Future[Made] = Future()

    def run() -> None:
        try:
            future.set_result(make())
        except Exception as exc:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future
