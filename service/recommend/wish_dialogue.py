"""A dialogue with a user about wishes: hear a turn, keep it for a while, and answer it."""

import time
from collections.abc import Callable
from typing import NamedTuple

from models.store.wish_turns import MAX_TURNS, WishTurn, held_turns
from service.recommend.engine import Engines
from service.recommend.wishes import HeldWish
from service.users.local_state import LiveHits
from service.users.reader import Users


class Heard(NamedTuple):
    """Result of one turn."""

    wish: HeldWish  # after the turn
    sentence: str  # the answer to the user
    until_s: int | None  # unix seconds; None where no wish holds


class WishDialogue:
    """Hears the turns of users."""

    def __init__(
        self,
        users: Users,
        engines: Engines,
        hits: LiveHits,
        *,
        lasts_s: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """lasts_s: a wish holds for so long behind its last turn."""
        self._users = users
        self._engines = engines
        self._hits = hits
        self._lasts_s = lasts_s
        self._wall = wall

    async def hear(self, user_id: str, text: str, *, item_id: str | None = None) -> Heard:
        """Add a turn to the user's wish. Raises StoreUnavailable.

        A turn of which nothing is understood leaves the wish and its time as they were.

        Args:
            item_id: the item that "this" and "that" mean; None for the first of the last answer.
        """
        now_s = self._wall()
        kept = await self._users.read_wish(user_id)
        before = held_turns(kept, now_s=now_s, lasts_s=self._lasts_s)
        turn = WishTurn(text, int(now_s), item_id or self._hits.first_shown(user_id, now_s=now_s))
        turns = (*before, turn)[-MAX_TURNS:]
        heard = self._engines.of(None, user_id).engine.wishes.get(turns)
        if heard.wish.is_over:
            turns = ()
        elif not heard.wish.is_understood:
            turns = before
        if turns != before:
            await self._users.write_wish(user_id, turns, max(int(self._lasts_s), 1))
        sentence = heard.sentence(minutes=round(self._lasts_s / 60))
        return Heard(heard, sentence, self._end(turns))

    async def forget(self, user_id: str) -> None:
        """End the user's wish. Raises StoreUnavailable."""
        if await self._users.read_wish(user_id):
            await self._users.write_wish(user_id, (), 1)

    def _end(self, turns: tuple[WishTurn, ...]) -> int | None:
        return int(turns[-1].at_s + self._lasts_s) if turns else None
