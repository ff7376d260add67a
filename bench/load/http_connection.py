"""One keep-alive HTTP/1.1 connection with one request in flight, as light as a generator needs it.

Writes bytes that were rendered before, reads status and body. Knows nothing of routes or load.
"""

import asyncio
from typing import NamedTuple

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_BUSY = 503
_RETRY_AFTER = b"\r\nretry-after:"


class Address(NamedTuple):
    host: str
    port: int


class Answer(NamedTuple):
    """has_retry_after: whether a 503 says when to come back."""

    status: int
    body: bytes
    has_retry_after: bool = False


class BrokenAnswerError(ConnectionError):
    """What came back is no HTTP answer with a length."""


class Connection:
    """One request at a time. A broken connection is replaced at the next request."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> None:
        """Raises OSError."""
        self._streams = await asyncio.open_connection(*self._address)

    async def exchange(self, request: bytes) -> Answer | None:
        """None if the other side refused, broke off or said what is no answer."""
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
    """A request; `target` is percent-encoded already, a body is JSON."""
    lines = [f"{method} {target} HTTP/1.1", "Host: service"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_head(head: bytes) -> tuple[int, int]:
    """Status and length of the body. Raises BrokenAnswerError."""
    status_line, *fields = head.split(b"\r\n")
    lengths = [field for field in fields if field[: len(_LENGTH)].lower() == _LENGTH]
    try:
        return int(status_line.split(b" ", 2)[1]), int(lengths[0][len(_LENGTH) :])
    except (IndexError, ValueError) as exc:
        raise BrokenAnswerError(f"head {head[:80]!r}") from exc
