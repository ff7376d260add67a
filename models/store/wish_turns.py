"""Turns of a user's wish, in the user's words, as the store keeps them for a while.

    ta:{user}:w   a JSON list of turns, oldest first, that expires with the wish

Decoding is total: any bytes give turns, or none. Knows nothing of the meaning of a wish.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from models.errors import InvalidRecord
from models.ids import id_problem

MAX_INSTRUCTION_CHARS = 500
MAX_TURNS = 8  # of one wish; older ones are forgotten
_MAX_BYTES = 1 << 17  # of the JSON text; the longest turns and ids, escaped, have 75,000


class WishTurn(NamedTuple):
    """One turn of a dialogue."""

    text: str  # in the user's words
    at_s: int  # unix seconds
    item_id: str | None = None  # the item that "this" and "that" mean


def encode_turns(turns: Sequence[WishTurn]) -> bytes:
    """Encode the newest MAX_TURNS turns."""
    return json.dumps([list(turn) for turn in turns[-MAX_TURNS:]], separators=(",", ":")).encode()


def decode_turns(blob: bytes | None) -> tuple[WishTurn, ...]:
    """Return the turns; none for bytes that are not of `encode_turns`."""
    if not blob or len(blob) > _MAX_BYTES:
        return ()
    try:
        return tuple(_read_turn(each) for each in _list_of(json.loads(blob)))
    except (ValueError, RecursionError, InvalidRecord):
        return ()


def held_turns(turns: Sequence[WishTurn], *, now_s: float, lasts_s: float) -> tuple[WishTurn, ...]:
    """Return the turns of a wish that still holds: the newest is at most `lasts_s` old."""
    return tuple(turns) if turns and now_s < turns[-1].at_s + lasts_s else ()


def _list_of(found: object) -> list[object]:
    if not isinstance(found, list) or len(found) > MAX_TURNS:
        raise InvalidRecord("wish: expected a list of turns")
    return found


def _read_turn(found: object) -> WishTurn:
    match found:
        case [str() as text, int() as at_s, str() | None as item_id]:
            is_sound = 0 < len(text) <= MAX_INSTRUCTION_CHARS and 0 <= at_s < 2**53
            if is_sound and (item_id is None or id_problem(item_id) is None):
                return WishTurn(text, at_s, item_id)
    raise InvalidRecord("wish: expected text, time and item of a turn")
