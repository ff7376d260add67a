"""`popular` answers as bytes, for requests that the flood gate keeps from the application.

All `popular` answers with the same number of items differ in their ids only. So each is written
once as a template and then filled in, which costs little more than a 503. Through the application a
`popular` answer takes two thirds of the time of a whole one. Knows nothing of floods.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence

import orjson

from service.api.recommendation import server_timing, write_recommendation
from service.api.requests import MAX_ITEMS
from service.auth.api_keys import KeyRing
from service.auth.key_middleware import take_token
from service.recommend.engine import Engine
from service.recommend.ladder import Wanted, top_up
from service.recommend.pages import Cursors
from service.recommend.pipeline import STAGES, Served
from service.sources import DEFAULT_ITEMS, Mode, Reason, Source
from service.telemetry.metrics import Metrics
from service.telemetry.request_headers import (
    REQUEST_ID_HEADER,
    TRACE_HEADER,
    accept_request_id,
    continue_trace,
)

_ID, _USER = "request id", "user id"  # placeholders in a template
_NUM_DIGITS = 32  # of a recommendation's id
# A user id that needs no decoding, and at most the number of items.
_URL = re.compile(rb"((?:/v1)?/recommend/)([A-Za-z0-9._~-]{1,256})(?:\?n=([0-9]{1,3}))?")
Fields = Sequence[tuple[bytes, bytes]]


class PopularAnswers:
    """Write `popular` answers and count them.

    A flood leaves no time for metrics and logs. So metrics take the counts only when they are
    rendered, and these answers have no line in the log.
    """

    def __init__(
        self, current: Callable[[], Engine], ring: KeyRing | None, metrics: Metrics
    ) -> None:
        """Write for the engine that `current` returns; `ring` is None if no API key is needed."""
        self._current = current
        self._ring = ring
        self._metrics = metrics
        self._engine: Engine | None = None
        self._templates: dict[int, _Template] = {}
        self._new: dict[tuple[bytes, int], int] = {}  # answers by route and number of items
        metrics.before_rendering(self._count)

    def write(self, method: bytes, url: bytes, headers: Fields, fields: Fields) -> bytes | None:
        """Return a whole answer, with `fields` among its headers.

        Return None for a request with any parameter but `n`, and for one without a valid API key.
        A written answer takes a token of its API key.
        """
        if method != b"GET" or (read := _URL.fullmatch(url)) is None:
            return None
        route, user_id, num = read.groups()
        num_items = DEFAULT_ITEMS if num is None else int(num)
        if not 0 < num_items <= MAX_ITEMS:
            return None
        given = dict(headers)
        if self._ring is not None and not take_token(self._ring, given, self._metrics):
            return None
        engine = self._current()
        if engine is not self._engine:
            self._engine, self._templates = engine, {}
        template = self._templates.get(num_items)
        if template is None:
            template = self._templates[num_items] = _Template(engine, num_items)
        answered = template.fill(user_id, given, fields)
        counted = (route, template.num_items)
        self._new[counted] = self._new.get(counted, 0) + 1
        return answered

    def _count(self) -> None:
        """Add the answers since the last call to the metrics."""
        for (route, num_items), num in self._new.items():
            name = f"{route.decode()}{{user_id}}"
            self._metrics.count_request(route=name, source=Source.POPULAR, status=200, num=num)
            self._metrics.count_fallback(Reason.OVERLOAD, num=num)
            self._metrics.count_items(Source.POPULAR, num * num_items)
        self._new.clear()


class _Template:
    """An answer without its ids, from the code that writes all other answers."""

    def __init__(self, engine: Engine, num_items: int) -> None:
        wanted = Wanted(num_items, frozenset(), category=None, mode=Mode.STRICT, num_own=0)
        served = Served(
            engine=engine,
            picks=tuple(top_up((), engine, wanted)),
            source=Source.POPULAR,
            is_degraded=True,
            is_held=False,
            record=None,
            record_age_s=0.0,
            thoughts=None,
            seconds=dict.fromkeys(STAGES, 0.0),
        )
        answer = write_recommendation(served, Cursors(None), user_id=_USER, request_id=_ID)
        body = orjson.dumps(answer).replace(b"%", b"%%")
        for filled_in in (_ID, answer["recommendation_id"], _USER):  # the first three fields
            body = body.replace(filled_in.encode(), b"%b", 1)
        self.num_items = len(served.picks)
        self._num_bytes = len(body % (b"", b"", b"")) + _NUM_DIGITS
        self._text = (
            b"HTTP/1.1 200 OK\r\n%bserver-timing: " + server_timing(served).encode() + b"\r\n"
            b"content-length: %d\r\ncontent-type: application/json\r\n"
            b"x-request-id: %b\r\ntraceparent: %b\r\n\r\n" + body
        )

    def fill(
        self,
        user_id: bytes,
        asked: Mapping[bytes, bytes],
        fields: Fields,
    ) -> bytes:
        """Write an answer; `asked` are headers of the request, `fields` of the answer."""
        digits = b"%0*x" % (_NUM_DIGITS + 16, random.getrandbits(4 * (_NUM_DIGITS + 16)))
        given = accept_request_id(asked.get(REQUEST_ID_HEADER))
        request_id = digits[_NUM_DIGITS:] if given is None else given.encode()
        return self._text % (
            b"".join([b"%b: %b\r\n" % field for field in fields]),
            self._num_bytes + len(user_id) + len(request_id),
            request_id,
            continue_trace(asked.get(TRACE_HEADER)).header,
            request_id,
            digits[:_NUM_DIGITS],
            user_id,
        )
