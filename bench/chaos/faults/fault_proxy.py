"""A TCP proxy in front of Redis that injects the faults of networks and servers.

    python -m bench.chaos.faults.fault_proxy --upstream HOST:PORT

The command prints the port of the proxy and the port of its control socket. The control socket
takes one line of JSON per fault (see `fault`) and answers each with `ok` or an error. Of the
protocol RESP, the proxy only counts commands.
"""

import argparse
import asyncio
import random
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

import hiredis

from bench.chaos.faults.fault import Fault, Kind
from bench.load.http_connection import Address
from models.errors import InvalidSettings

HOST = "127.0.0.1"
_PIECE = 1 << 16
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


class FaultProxy:
    """A proxy with one listening socket, one upstream, and one fault for all connections."""

    def __init__(self, upstream: Address, *, seed: int = 0) -> None:
        self.num_accepted = 0
        self.port = 0
        self._upstream = upstream
        self._rng = random.Random(seed)
        self._fault = Fault()
        self._switched = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    @property
    def fault(self) -> Fault:
        return self._fault

    async def start(self) -> None:
        """Listen, after a stop on the same port. Raises OSError if the port is taken."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def switch(self, fault: Fault) -> None:
        """Replace the current fault, on existing connections too."""
        self._fault = fault
        self._switched.set()
        self._switched = asyncio.Event()
        if fault.kind == Kind.REFUSE:
            await self._stop_listening()
        elif self._server is None:
            await self.start()

    async def close(self) -> None:
        await self._stop_listening()

    async def wait_passable(self) -> Fault:
        """Wait while the fault is BLACK_HOLE; return the current fault."""
        while self._fault.kind == Kind.BLACK_HOLE:
            await self._switched.wait()
        return self._fault

    def draw_strike(self, fault: Fault) -> bool:
        return self._rng.random() < fault.share

    def delay_s(self, fault: Fault) -> float:
        return (fault.delay_ms + self._rng.uniform(0.0, fault.jitter_ms)) / 1000

    def flip(self, piece: bytes) -> bytes:
        """Return the piece with one random byte changed."""
        at, by = self._rng.randrange(len(piece)), self._rng.randrange(1, 256)
        return piece[:at] + bytes([piece[at] ^ by]) + piece[at + 1 :]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_accepted += 1
        link = _Link(self, self._upstream, reader, writer)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for link in list(self._links):
            link.abort()
        if server is not None:
            await server.wait_closed()


class _Link:
    """A client's connection and the matching connection to the upstream."""

    def __init__(
        self,
        proxy: FaultProxy,
        upstream: Address,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._upstream = upstream
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._parser = hiredis.Reader()  # of the client's commands
        self._work: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Pass bytes on until either side closes or the link is aborted."""
        self._work = asyncio.create_task(self._pump())
        with suppress(asyncio.CancelledError, OSError):
            await self._work
        for streams in (self._server, self._client):
            if streams is not None:
                streams[1].close()

    def abort(self) -> None:
        """Reset both connections."""
        for streams in (self._server, self._client):
            if streams is not None:
                _reset(streams[1])
        if self._work is not None:
            self._work.cancel()

    async def _pump(self) -> None:
        await self._proxy.wait_passable()
        self._server = await asyncio.open_connection(*self._upstream)
        pumps = [asyncio.create_task(self._requests()), asyncio.create_task(self._replies())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(self) -> None:
        assert self._server is not None
        while piece := await self._client[0].read(_PIECE):
            fault = await self._proxy.wait_passable()
            num_commands = self._count(piece)
            if fault.kind == Kind.ERROR:
                self._client[1].write(f"-{fault.text}\r\n".encode() * num_commands)
            else:
                self._server[1].write(piece)
                await self._server[1].drain()

    def _count(self, piece: bytes) -> int:
        """Return the number of commands that this piece completes."""
        self._parser.feed(piece)
        num = 0
        try:
            while self._parser.gets() is not False:
                num += 1
        except hiredis.ProtocolError:
            self._parser = hiredis.Reader()
            return num + 1  # an inline command, such as the PING of a health check
        return num

    async def _replies(self) -> None:
        assert self._server is not None
        while piece := await self._server[0].read(_PIECE):
            if not await self._pass_on(await self._proxy.wait_passable(), piece):
                return

    async def _pass_on(self, fault: Fault, piece: bytes) -> bool:
        """Send a reply piece with the fault applied; return False if the connection ends."""
        if fault.kind == Kind.LATENCY:
            await asyncio.sleep(self._proxy.delay_s(fault))
        is_struck = self._proxy.draw_strike(fault)
        if is_struck and fault.kind == Kind.RESET:
            self.abort()
            return False
        if is_struck and fault.kind == Kind.TRUNCATE:
            piece = piece[: len(piece) // 2]
        elif is_struck and fault.kind == Kind.CORRUPT:
            piece = self._proxy.flip(piece)
        self._client[1].write(piece)
        await self._client[1].drain()
        return not (is_struck and fault.kind == Kind.TRUNCATE)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and not writer.is_closing():
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    writer.transport.abort()


async def serve_forever(upstream: Address) -> None:
    """Print both ports, then take faults until the control connection closes."""
    proxy = FaultProxy(upstream)
    await proxy.start()
    over = asyncio.Event()

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                await proxy.switch(Fault.decode(line))
                writer.write(b"ok\n")
            except (InvalidSettings, OSError) as exc:
                writer.write(" ".join(str(exc).split()).encode() + b"\n")
        writer.close()
        over.set()

    control = await asyncio.start_server(obey, HOST, 0)
    print(proxy.port, control.sockets[0].getsockname()[1], flush=True)
    await over.wait()
    control.close()
    await proxy.close()


def read_place(text: str) -> Address:
    """Parse HOST:PORT. Raises InvalidSettings."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidSettings(f"--upstream {text}, expected HOST:PORT")
    return Address(host, int(port))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos.faults.fault_proxy", allow_abbrev=False
    )
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT")
    try:
        upstream = read_place(parser.parse_args(arguments).upstream)
    except InvalidSettings as exc:
        print(f"fault proxy: {exc}", file=sys.stderr)
        return 78
    with suppress(KeyboardInterrupt):
        asyncio.run(serve_forever(upstream))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
