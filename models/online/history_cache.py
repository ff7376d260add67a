"""A cache of encoded histories, and the rule for the part of a history that is encoded.

Knows nothing of users, records or Redis.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from models.online.finish import KeptHistory


def window_start(num_items: int, window: int) -> int:
    """Return the index of the first encoded item in a history of `num_items`.

    A history grows to one item short of two windows. Then its newest `window` items are encoded
    again, and it grows again. So almost every event extends a kept state, and the encoded part
    depends on the history's length alone.
    """
    return max(0, num_items // window - 1) * window


class Encoder(Protocol):
    @property
    def window(self) -> int: ...

    def encode(self, rows: Sequence[int]) -> KeptHistory:
        """Encode catalog rows, oldest first, all of them."""

    def extend(self, state: KeptHistory, rows: Sequence[int]) -> KeptHistory: ...


class HistoryCache:
    """Least-recently-used cache of states by a digest of their items. Not thread-safe.

    It holds no encoder, so that encoders over one model can take turns.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_extended = 0
        self.num_encoded = 0
        self._states: OrderedDict[bytes, KeptHistory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def state(self, encoder: Encoder, rows: Sequence[int]) -> KeptHistory:
        """Return the state of a whole history: kept, extended by one item, or encoded again."""
        recent = rows[window_start(len(rows), encoder.window) :]
        digest = _digest(recent)
        if (state := self._states.get(digest)) is not None:
            self._states.move_to_end(digest)
            return state
        before = self._take(_digest(recent[:-1])) if recent else None
        if before is not None:
            state = encoder.extend(before, recent[-1:])
            self.num_extended += 1
        else:
            state = encoder.encode(recent)
            self.num_encoded += 1
        self._keep(digest, state)
        return state

    def _take(self, digest: bytes) -> KeptHistory | None:
        """Remove a state: after an event, the old history is not requested again."""
        state = self._states.pop(digest, None)
        if state is not None:
            self.num_bytes -= state.num_bytes
        return state

    def _keep(self, digest: bytes, state: KeptHistory) -> None:
        self._states[digest] = state
        self.num_bytes += state.num_bytes
        while self.num_bytes > self.max_bytes:
            _, dropped = self._states.popitem(last=False)
            self.num_bytes -= dropped.num_bytes


def _digest(rows: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.array(rows, dtype=np.int64).tobytes(), digest_size=16).digest()
