"""A server on a real socket that speaks as a test tells it to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """Run `serve` for each connection; yield HOST:PORT."""
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await serve(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers)
        server.close()
        await server.wait_closed()


def answering(reply_to: Callable[[bytes], bytes]) -> Serve:
    """Answer each chunk of commands with the bytes that `reply_to` returns."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while commands := await reader.read(4096):
            writer.write(reply_to(commands))

    return serve


def array(*parts: object) -> bytes:
    """Encode a reply of strings, integers and nested arrays."""
    return b"*%d\r\n" % len(parts) + b"".join(map(_element, parts))


def _element(part: object) -> bytes:
    if isinstance(part, bytes):
        return part  # an array
    return b":%d\r\n" % part if isinstance(part, int) else b"+%s\r\n" % str(part).encode()
