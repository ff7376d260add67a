"""The workers of one service, as one of them reaches the others: through their supervisor."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from service.workers.channel import Answers, Channel

FIRST_WORKER = "0"  # which has the admin port
_PAGE_S = 5.0  # for the metrics of all workers


class Crew:
    """One worker's end of its channel. Without a supervisor the worker ends, as after SIGTERM."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._channel: Channel | None = None

    @asynccontextmanager
    async def join(self, answers: Answers) -> AsyncIterator[None]:
        """Answer the supervisor's questions while the block runs."""
        self._channel = await Channel.on(self._end, answers)
        reading = asyncio.create_task(self._read(self._channel))
        try:
            yield
        finally:
            reading.cancel()

    async def report_serving(self) -> None:
        """Tell the supervisor that this worker listens."""
        await self._ask("serving")

    async def metrics_page(self) -> bytes:
        """Return the metrics of all workers as one page. Raises ChannelError."""
        page: str = await self._ask("page", timeout_s=_PAGE_S)
        return page.encode()

    async def reload(self) -> dict[str, str]:
        """Reload one worker after the other; return the outcome by worker. Raises ChannelError."""
        outcomes: dict[str, str] = await self._ask("reload")
        return outcomes

    async def status(self) -> list[dict[str, Any]]:
        """Return pid, core, state and number of restarts of each worker. Raises ChannelError."""
        workers: list[dict[str, Any]] = await self._ask("status", timeout_s=_PAGE_S)
        return workers

    async def _ask(self, question: str, *, timeout_s: float | None = None) -> Any:
        assert self._channel is not None, "not joined"
        return await self._channel.ask(question, timeout_s=timeout_s)

    async def _read(self, channel: Channel) -> None:
        await channel.run()
        os.kill(os.getpid(), signal.SIGTERM)
