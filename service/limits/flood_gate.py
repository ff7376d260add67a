"""Answering what would only wait too long for next to nothing: `popular`, or a refusal.

A flood is met where it arrives: most requests before they are parsed, the rest before anything of
ours runs. Knows what may be let in; whether there is a flood is the limiter's to say.
"""

import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.limits.unparsed import Plain
from service.problems import problem
from service.sources import Criticality

FLOODED = "more requests wait than can be answered in time"
RETRY_AFTER_S = 1
POPULAR_EACH = 8  # tried with clients that ask again at once (LOG.md)
_MOST_POPULAR = 160  # at once
# How many of these are not for a kind: else whoever asks again soonest gets them all.
_KEPT_FROM = {Criticality.SHEDDABLE: 96, Criticality.DEFAULT: 32, Criticality.CRITICAL: 0}

_NO_ID = "0123456789abcdef"
Popular = Callable[[Plain, Sequence[tuple[bytes, bytes]]], bytes | None]


def _nothing(_plain: Plain, _fields: Sequence[tuple[bytes, bytes]]) -> None:
    return None


class Guard:
    """What connections need to know to refuse, and what they have refused.

    Plain numbers, renewed at every beat of the loop: a refusal has no time to ask for them.

    bounds: from how many requests in the process on one more of a kind is not let in. least: of
    these; 0 while the loop is late, when everybody is looked at. patience_s: for how long a request
    of a kind may have waited, unread or unbegun, and still be let in during a flood: a burst, or
    what a stall left behind, gets cheap answers and no refusals. rest_s: for how long a connection
    that was just refused is not heard: else those who ask again at once would take all the time
    there is.

    popular: an answer instead of a refusal, where there is one; with the headers of every answer.
    popular_patience_s: how long who gets it may have waited; 0 while there is no time for that.
    num_popular_left: how many more get it. Each request that is let in brings POPULAR_EACH, so that
    those who are content with it, and ask again at once, leave time for whole answers. The last of
    them are kept for the more critical.
    """

    __slots__ = (
        "bounds",
        "is_flooded",
        "is_late",
        "least",
        "least_patience_s",
        "num_let_in",
        "num_popular",
        "num_popular_left",
        "num_refused",
        "patience_s",
        "popular",
        "popular_patience_s",
        "rest_s",
    )

    def __init__(
        self,
        bounds: Mapping[Criticality, int],
        patience_s: Mapping[Criticality, float],
    ) -> None:
        self.num_refused = dict.fromkeys(Criticality, 0)
        self.num_let_in = self.num_popular = 0  # ever
        self.num_popular_left = _MOST_POPULAR
        self.popular: Popular = _nothing
        self.patience_s = patience_s
        self.least_patience_s = min(patience_s.values())
        self.renew(bounds, is_late=False, is_flooded=False, rest_s=0.0)

    def renew(
        self,
        bounds: Mapping[Criticality, int],
        *,
        is_late: bool,
        is_flooded: bool,
        rest_s: float,
        popular_patience_s: float = 0.0,
        num_let_in: int = 0,
    ) -> None:
        """num_let_in: ever."""
        self.bounds = bounds
        self.is_late, self.is_flooded = is_late, is_flooded
        self.least = 0 if is_late else min(bounds.values())
        self.rest_s = rest_s
        self.popular_patience_s = popular_patience_s
        left = self.num_popular_left + POPULAR_EACH * (num_let_in - self.num_let_in)
        self.num_popular_left = min(left, _MOST_POPULAR)
        self.num_let_in = num_let_in

    @property
    def num_turned_away(self) -> int:
        """Refused, or answered without being let in; ever."""
        return sum(self.num_refused.values()) + self.num_popular

    def is_one_too_many(self, criticality: Criticality, num_present: int) -> bool:
        """num_present: requests read and not answered yet."""
        return num_present >= self.bounds[criticality]

    def is_too_late(self, criticality: Criticality, waited_s: float, num_present: int) -> bool:
        if waited_s <= self.patience_s[criticality]:
            return False
        return self.is_flooded or num_present >= self.bounds[criticality]

    def has_popular(self, criticality: Criticality, waited_s: float, *, has_rested: bool) -> bool:
        """has_rested: who was refused asked again at once. It stays refused, which is cheapest,
        unless it is critical."""
        if has_rested and criticality is not Criticality.CRITICAL:
            return False
        return (
            self.num_popular_left > _KEPT_FROM[criticality] and waited_s < self.popular_patience_s
        )


def refusal() -> bytes:
    """An answer as it goes over the wire, with an id of its own."""
    return _REFUSAL % (b"%s%08x" % (_OURS, next(_numbers) & 0xFFFFFFFF))


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """The same as an ASGI application."""
    await _answer(secrets.token_hex(8))(scope, receive, send)


def _answer(request_id: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return problem(503, FLOODED, request_id=request_id, headers=headers)


def _written(answer: Response) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
    return b"HTTP/1.1 503 Service Unavailable\r\n" + head.encode() + b"\r\n" + bytes(answer.body)


# Written once: a flood has no time for it, nor for the system's random numbers.
_REFUSAL = _written(_answer(_NO_ID)).replace(b"%", b"%%").replace(_NO_ID.encode(), b"%b")
_OURS = secrets.token_hex(4).encode()  # this process's; ids go on with a number
_numbers = itertools.count()
