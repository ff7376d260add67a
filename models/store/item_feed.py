"""The stream of items: new items, new texts and withdrawals, in the order in which they came.

    ta:items   one entry an item: item, its JSON form

The stream keeps about the newest ITEMS_LIMIT entries. A reader that was away for longer takes the
items from the catalog of the next base.
"""

import logging
from collections.abc import Sequence
from typing import Any

from models.catalog.fed_items import FedItem
from models.errors import InvalidRecord
from models.store.connection import RedisConnection
from models.store.contract import ItemPage
from models.store.user_state import sound_entries
from models.store.wire import Command

logger = logging.getLogger(__name__)

ITEMS_LIMIT = 100_000  # entries of the stream
_ITEMS_A_WRITE = 50  # so that a write ends within the time-out of a service


class RedisItems(RedisConnection):
    async def offer_items(self, items: Sequence[FedItem]) -> None:
        for start in range(0, len(items), _ITEMS_A_WRITE):
            commands: list[Command] = [
                ("XADD", self._keys.items, "MAXLEN", "~", ITEMS_LIMIT, "*", "item", item.encode())
                for item in items[start : start + _ITEMS_A_WRITE]
            ]
            with self._translated():
                for reply in await self._ask(*commands):
                    if isinstance(reply, Exception):
                        raise reply

    async def read_items(self, after: str, count: int) -> ItemPage:
        (reply,) = await self._ask(("XRANGE", self._keys.items, f"({after}", "+", "COUNT", count))
        entries = sound_entries(reply)
        items = [item for entry in entries if (item := _read_item(entry)) is not None]
        return ItemPage(tuple(items), entries[-1][0].decode() if entries else after)


def _read_item(entry: Any) -> FedItem | None:
    try:
        return FedItem.decode(entry[1][1])
    except InvalidRecord as exc:
        logger.warning("an item of the stream is skipped: %s", exc)
        return None
