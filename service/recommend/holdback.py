"""Who is held at which rung: a small sticky share of users for each of the lower ones.

So every rung's latency and quality is known every day, and not only on the day that it is needed.
`stale` is no share of its own: it is a `personal` answer of yesterday, and its worth by age is in
the records' ages. Stable over processes, releases and time.
"""

import hashlib

from service.sources import Source

HELD_RUNGS = (Source.ONLINE, Source.GLOBAL, Source.POPULAR)
_SALT = b"rungs/1"  # another one would draw other users; experiments have their own
_SPAN = float(1 << 64)


class RungShares:
    """share: of all users, for each of HELD_RUNGS; 0 holds nobody."""

    def __init__(self, share: float) -> None:
        self._share = share

    def rung_of(self, user_id: str) -> Source | None:
        """None for a user who is served by the best rung there is."""
        if not self._share:
            return None
        digest = hashlib.blake2b(user_id.encode(), digest_size=8, key=_SALT).digest()
        at = int(int.from_bytes(digest, "big") / _SPAN / self._share)
        return HELD_RUNGS[at] if at < len(HELD_RUNGS) else None
