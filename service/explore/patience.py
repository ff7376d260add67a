"""Reads of the store for a person, who has more time than a request for recommendations."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from models.errors import StoreUnavailable

T = TypeVar("T")
_PAUSES_S = (0.05, 0.2, 0.5)  # the store's time limit is that of requests


async def patiently(read: Callable[[], Awaitable[T]]) -> T:
    """Return the result of `read`, tried four times. Raises StoreUnavailable."""
    for pause_s in _PAUSES_S:
        try:
            return await read()
        except StoreUnavailable:
            await asyncio.sleep(pause_s)
    return await read()
