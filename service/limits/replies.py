"""Rejections of the flood gate, as bytes, for requests that the application never sees.

A flood leaves no time to build an answer: the text is written once, and only the id changes.
"""

import itertools
import secrets
from collections.abc import Callable, Sequence

from service.problems import problem

FLOODED = "more requests wait than can be answered in time"
_NO_ID = "0123456789abcdef"

Headers = Sequence[tuple[bytes, bytes]]
# (method, URL, headers of the request, headers of every answer) -> a whole `popular` answer, or
# None for a request that cannot have one
WritePopular = Callable[[bytes, bytes, Headers, Headers], bytes | None]


class Rejections:
    """503 answers of this process, each with an id of its own."""

    def __init__(self, *, retry_after_s: int) -> None:
        headers = {"Retry-After": str(retry_after_s)}
        answer = problem(503, FLOODED, request_id=_NO_ID, headers=headers)
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        whole = b"HTTP/1.1 503 Service Unavailable\r\n%s\r\n%s" % (head.encode(), answer.body)
        self._text = whole.replace(b"%", b"%%").replace(_NO_ID.encode(), b"%b")
        # random once: the system's random numbers cost more than the rest of the answer
        self._ours = secrets.token_hex(4).encode()
        self._numbers = itertools.count()

    def write(self) -> bytes:
        """Return a whole answer."""
        return self._text % (b"%s%08x" % (self._ours, next(self._numbers) & 0xFFFFFFFF))
