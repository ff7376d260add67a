"""Closed-loop load: each connection asks again as soon as it has its answer.

Light, because it shares the cores with the service that it measures: sockets and epoll, without an
event loop, 30 us of CPU a request. Knows nothing of the content of requests.
"""

import itertools
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.load.http_connection import Address, BrokenAnswerError, read_head

_HEAD_END = b"\r\n\r\n"
_BLOCK = 1 << 18
_OK = 200
_PATIENCE_S = 10.0


class Loop:
    """One connection with one request in flight."""

    def __init__(self, end: socket.socket, requests: Iterator[bytes]) -> None:
        self.end = end
        self._requests = requests
        self._received = b""
        self._asked_at = 0.0

    def ask(self) -> None:
        self._asked_at = time.perf_counter()
        self.end.sendall(next(self._requests))

    def receive(self) -> bytes | None:
        """Read what has come; return the body of the answer once it is whole.

        Raises BrokenAnswerError for an end of the connection, or another status than 200.
        """
        block = self.end.recv(_BLOCK)
        if not block:
            raise BrokenAnswerError("the service closed a connection")
        self._received += block
        head, found, body = self._received.partition(_HEAD_END)
        if not found:
            return None
        status, length = read_head(head)
        if status != _OK:
            raise BrokenAnswerError(f"status {status}, expected {_OK}")
        if len(body) < length:
            return None
        self._received = b""
        return body

    @property
    def waited_s(self) -> float:
        return time.perf_counter() - self._asked_at


@dataclass(frozen=True)
class ClosedRun:
    """Outcome of one run."""

    latencies_s: list[float]
    num_marked: int  # answers that hold the mark
    seconds: float
    generator_s: float  # CPU time of the generator

    @property
    def rate(self) -> float:
        return len(self.latencies_s) / self.seconds


def run_closed_loop(
    address: Address,
    requests: Sequence[bytes],
    *,
    num_connections: int,
    seconds: float,
    mark: bytes,
) -> ClosedRun:
    """Ask in turns from `requests`, on connections of their own, for a while.

    mark: bytes that good answers hold. Raises BrokenAnswerError, or OSError without a connection.
    """
    turns = itertools.cycle(requests)
    with ExitStack() as opened, select.epoll() as poll:
        loops = {}
        for _ in range(num_connections):
            end = opened.enter_context(socket.create_connection(address, _PATIENCE_S))
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loops[end.fileno()] = Loop(end, turns)
            poll.register(end, select.EPOLLIN)
        return _run(loops, poll, seconds=seconds, mark=mark)


def _run(loops: dict[int, Loop], poll: select.epoll, *, seconds: float, mark: bytes) -> ClosedRun:
    latencies_s, num_marked = [], 0
    began_at, worked_s = time.perf_counter(), time.process_time()
    for loop in loops.values():
        loop.ask()
    while (elapsed_s := time.perf_counter() - began_at) < seconds:
        ready = poll.poll(_PATIENCE_S)
        if not ready:
            raise BrokenAnswerError(f"no answer within {_PATIENCE_S:g} s")
        for number, _ in ready:
            body = loops[number].receive()
            if body is not None:
                latencies_s.append(loops[number].waited_s)
                num_marked += mark in body
                loops[number].ask()
    return ClosedRun(latencies_s, num_marked, elapsed_s, time.process_time() - worked_s)
