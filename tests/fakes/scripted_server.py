"""An HTTP server on a real socket that answers as it is told, once per request."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["answer", "hang", "reset"]


@dataclass(frozen=True)
class Scripted:
    """One answer: after `delay_s`, a status with a body; or silence; or a broken connection."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    kind: Kind = "answer"


HANG = Scripted(kind="hang")
RESET = Scripted(kind="reset")


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class ScriptedServer:
    """Follows `script`, then answers with `otherwise`; records every request."""

    def __init__(self, *script: Scripted, otherwise: Scripted) -> None:
        self._script = list(script)
        self._otherwise = otherwise
        self.url = ""
        self.asked: list[Asked] = []
        self.num_hung_up_on = 0  # requests that the caller gave up before the answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (asked := await _read_request(reader)) is not None:
                self.asked.append(asked)
                step = self._script.pop(0) if self._script else self._otherwise
                if step.kind == "reset":
                    writer.transport.abort()
                    return
                if not await self._waited(step, reader):
                    self.num_hung_up_on += 1
                    return
                writer.write(_write_answer(step))
                await writer.drain()
        finally:
            writer.close()

    async def _waited(self, step: Scripted, reader: asyncio.StreamReader) -> bool:
        """Wait for the delay; False if the caller left in that time. Callers send nothing more."""
        left = asyncio.ensure_future(reader.read(1))
        timeout = None if step.kind == "hang" else step.delay_s
        done, _ = await asyncio.wait([left], timeout=timeout)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        return not done


@asynccontextmanager
async def scripted(*script: Scripted, otherwise: Scripted) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(*script, otherwise=otherwise)
    tasks: set[asyncio.Task[None]] = set()

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    """None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split()
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, target, headers, body)


def _write_answer(step: Scripted) -> bytes:
    body = step.body if isinstance(step.body, bytes) else json.dumps(step.body).encode()
    headers = {"Content-Length": str(len(body)), **step.headers}
    lines = [f"HTTP/1.1 {step.status} Whatever", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
