"""R4: SIGTERM under load.

In flight are all requests sent before the signal: also those that the service has not read yet, and
events of which only one half is sent.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bench.chaos.findings import Bound, Finding, num_failed, statuses
from bench.chaos.world import Conditions, World, open_world, warm_up
from bench.common.results import Row
from bench.common.service_process import HOST, ServiceProcess
from bench.common.synthetic_users import user_id
from bench.load.answer_checks import Question, Questioner, Reply
from bench.load.http_connection import Address, Answer, Connection, render
from models.store.redis_store import RedisStore

_NUM_RECOMMEND, _NUM_EVENTS, _NUM_HALF_EVENTS = 48, 8, 8
_PAUSE_S = 0.2  # before the second half of an event
_EXIT_S = 10.0
_MARGIN_S = 0.005  # a request due this long before the signal counts as sent
_TIMEOUT_MS = 10_000

Part = Literal["whole", "half"]


class Stopped(NamedTuple):
    """Result of one stop."""

    row: Row
    replies: list[Reply]


def measure(conditions: Conditions) -> Finding:
    with open_world(conditions, "R4") as (world, _):
        found = [stop_once(world, number) for number in range(conditions.times(10, 2))]
        lost = asyncio.run(_count_lost(world))
    rows = [each.row for each in found]
    bounds = [
        Bound("in flight failed", sum(int(row["failed"]) for row in rows), "==", 0),
        Bound("exit s", max(float(row["exit_s"]) for row in rows), "<=", _EXIT_S),
        Bound("exit code", max(int(row["exit_code"]) for row in rows), "==", 0),
        Bound("events lost", lost, "==", 0),
    ]
    return Finding("R4", bounds, rows, [reply for each in found for reply in each.replies])


def stop_once(world: World, number: int) -> Stopped:
    with world.service() as service, world.load(service) as load:
        warm_up(load)
        burst, stopped_at = asyncio.run(_burst(world, service, seed=number))
        code = service.wait(2 * _EXIT_S)
        exit_s = time.monotonic() - stopped_at
        load.stop()
    sent = [reply for reply in load.replies if reply.due_at < stopped_at - _MARGIN_S]
    later = [reply for reply in load.replies if reply.due_at >= stopped_at]
    row: Row = {
        "name": f"stop_{number}",
        "in_flight": len(burst),
        "failed": _num_broken(burst) + _num_broken(sent),
        "shed": _num_shed(burst) + _num_shed(sent),
        "exit_s": exit_s,
        "exit_code": 255 if code is None else code,
        "answered_later": sum(reply.status > 0 for reply in later),
        **statuses(burst),
    }
    print(f"R4 {number}: {row['failed']} of {len(burst)} in flight failed, exit {exit_s:.2f} s")
    return Stopped(row, [*load.replies, *burst])


async def _burst(world: World, service: ServiceProcess, *, seed: int) -> tuple[list[Reply], float]:
    """Send on many connections, send SIGTERM at once, and read the answers.

    Return the replies and the time of the signal (monotonic).
    """
    questioner, loop = (
        Questioner(world.truth, event_share=0.0, seed=seed),
        asyncio.get_running_loop(),
    )
    connections = [
        _Sender(Address(HOST, service.port))
        for _ in range(_NUM_RECOMMEND + _NUM_EVENTS + _NUM_HALF_EVENTS)
    ]
    await asyncio.gather(*(each.exchange(render("GET", "/health/live")) for each in connections))
    questions = [questioner.draw(loop.time()) for _ in range(_NUM_RECOMMEND)]
    questions += [_event(world, number, loop.time()) for number in range(_NUM_EVENTS)]
    for connection, question in zip(connections, questions, strict=False):
        connection.send(question.payload)
    halves = [_event(world, number, loop.time()) for number in range(_NUM_HALF_EVENTS)]
    slow = connections[len(questions) :]
    for connection, question in zip(slow, halves, strict=True):
        connection.send(question.payload[:-5])
    service.terminate()
    stopped_at = time.monotonic()
    await asyncio.sleep(_PAUSE_S)
    for connection, question in zip(slow, halves, strict=True):
        connection.send(question.payload[-5:])
    answers = await asyncio.gather(*(each.receive() for each in connections))
    for connection in connections:
        connection.close()
    replies = [
        questioner.judge(question, answer, loop.time())
        for question, answer in zip([*questions, *halves], answers, strict=True)
    ]
    return replies, stopped_at


class _Sender(Connection):
    """A connection that sends and receives separately."""

    def send(self, part: bytes) -> None:
        assert self._streams is not None
        self._streams[1].write(part)

    async def receive(self) -> Answer | None:
        """Return the answer, or None if the service broke the connection or 10 s passed."""
        try:
            async with asyncio.timeout(_EXIT_S):
                return await self._receive()
        except (OSError, EOFError, TimeoutError):
            return None


def _num_broken(replies: Sequence[Reply]) -> int:
    """Count requests without a complete answer and answers with an error.

    A 503 with `Retry-After` does not count: the limiter rejects part of a burst without a signal
    too.
    """
    return num_failed(replies) - _num_shed(replies)


def _num_shed(replies: Sequence[Reply]) -> int:
    return sum(reply.has_retry_after for reply in replies)


def _event(world: World, user: int, at: float) -> Question:
    item = world.truth.release.catalog.item_ids[user]
    body = f'{{"item_id": "{item}"}}'.encode()
    payload = render("POST", f"/events/{user_id(user)}", body=body)
    return Question("event", payload, user_id(user), user, at, event=item)


async def _count_lost(world: World) -> int:
    """Count acknowledged events that are missing in the store."""
    store = RedisStore(world.redis_url, _TIMEOUT_MS)
    users = range(world.truth.num_users)
    try:
        held = await store.read_histories([user_id(user) for user in users])
    finally:
        await store.close()
    return sum(
        len(world.truth.seen(user).keys() - {event.item_id for event in held[user_id(user)]})
        for user in users
    )
