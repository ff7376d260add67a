"""A minimal keep-alive HTTP/1.1 connection for load generators, with one request in flight.

Writes rendered requests; reads status and body. Knows nothing of routes or load.
"""

import asyncio
from typing import NamedTuple

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_BUSY = 503
_RETRY_AFTER = b"\r\nretry-after:"


class Address(NamedTuple):
    """A TCP address."""

    host: str
    port: int


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    body: bytes
    has_retry_after: bool = False  # a 503 with the header `Retry-After`


class BrokenAnswerError(ConnectionError):
    """The answer is not HTTP with a content length."""


class Connection:
    """A connection for one request at a time; reopens itself after a failure."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> None:
        """Connect. Raises OSError."""
        self._streams = await asyncio.open_connection(*self._address)

    async def exchange(self, request: bytes) -> Answer | None:
        """Send a request and return the answer.

        Return None if the server refuses or breaks the connection, or sends invalid HTTP.
        """
        try:
            if self._streams is None:
                await self.open()
            return await self._exchange(request)
        except (OSError, EOFError):
            self.close()
            return None

    async def _exchange(self, request: bytes) -> Answer:
        assert self._streams is not None
        self._streams[1].write(request)
        return await self._receive()

    async def _receive(self) -> Answer:
        assert self._streams is not None
        reader = self._streams[0]
        status, length = read_head(head := await reader.readuntil(_HEAD_END))
        body = await reader.readexactly(length)
        return Answer(status, body, status == _BUSY and _RETRY_AFTER in head.lower())

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


def render(method: str, target: str, *, body: bytes = b"") -> bytes:
    """Render a request; `target` must be percent-encoded, and a body must be JSON."""
    lines = [f"{method} {target} HTTP/1.1", "Host: service"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_head(head: bytes) -> tuple[int, int]:
    """Return the status and the length of the body. Raises BrokenAnswerError."""
    status_line, *fields = head.split(b"\r\n")
    lengths = [field for field in fields if field[: len(_LENGTH)].lower() == _LENGTH]
    try:
        return int(status_line.split(b" ", 2)[1]), int(lengths[0][len(_LENGTH) :])
    except (IndexError, ValueError) as exc:
        raise BrokenAnswerError(f"head {head[:80]!r}") from exc
