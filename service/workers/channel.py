"""Questions and answers between a supervisor and one worker, both ways over one socket.

A message is a line of JSON: `{"id": 7, "ask": "ping"}`, then `{"id": 7, "answer": null}`, or
`{"id": 7, "failed": "..."}`. Knows nothing of what the questions mean.
"""

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import orjson

from models.errors import one_line

Answers = Mapping[str, Callable[[], Awaitable[Any]]]  # by question
_LONGEST_LINE = 1 << 26  # bytes; the metrics of a worker take some 100 kB
logger = logging.getLogger(__name__)


class ChannelError(Exception):
    """A question was not answered: the other side has ended, was too slow, or failed."""


class Channel:
    """One end. `run` reads it until the other end closes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: Answers
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answers = answers
        self._ids = itertools.count()
        self._open: dict[int, asyncio.Future[Any]] = {}  # questions of this side, by id
        self._answering: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @classmethod
    async def on(cls, end: socket.socket, answers: Answers) -> Self:
        """Open a channel on one end of a socket pair. answers: to the other side's questions."""
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=_LONGEST_LINE)
        return cls(reader, writer, answers)

    async def ask(self, question: str, *, timeout_s: float | None = None) -> Any:
        """Return the other side's answer. Raises ChannelError."""
        if self._is_closed:
            raise ChannelError("the other side has ended")
        number = next(self._ids)
        self._open[number] = answer = asyncio.get_running_loop().create_future()
        self._write({"id": number, "ask": question})
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as exc:
            raise ChannelError(f"no answer to {question!r} within {timeout_s:g} s") from exc
        finally:
            self._open.pop(number, None)

    async def run(self) -> None:
        """Read messages until the other side closes; open questions then fail."""
        try:
            while line := await self._reader.readline():
                self._take(orjson.loads(line))
        except ConnectionError:
            pass
        finally:
            self._is_closed = True
            for answer in self._open.values():
                if not answer.done():
                    answer.set_exception(ChannelError("the other side has ended"))
            self._writer.close()

    def _take(self, message: dict[str, Any]) -> None:
        number = message["id"]
        if "ask" in message:
            task = asyncio.create_task(self._answer(number, message["ask"]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif (answer := self._open.get(number)) is not None and not answer.done():
            if "failed" in message:
                answer.set_exception(ChannelError(message["failed"]))
            else:
                answer.set_result(message["answer"])

    async def _answer(self, number: int, question: str) -> None:
        try:
            self._write({"id": number, "answer": await self._answers[question]()})
        except Exception as exc:
            logger.exception("answering %r failed", question)
            self._write({"id": number, "failed": f"{type(exc).__name__}: {one_line(exc)}"})

    def _write(self, message: dict[str, Any]) -> None:
        if not self._is_closed:
            self._writer.write(orjson.dumps(message) + b"\n")
