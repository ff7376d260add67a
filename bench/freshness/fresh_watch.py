"""Posts events, feeds a new item, and looks when the answers of every service know of them.

Runs beside the load, in one event loop. Reads labels of answers, and no JSON of recommendations but
those that look for the new item.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import numpy as np

from bench.common.service_process import HOST
from bench.freshness.event_delays import Posted
from bench.freshness.live_system import LiveSystem
from bench.freshness.live_versions import Version, find_version
from bench.freshness.steady_load import Tally
from bench.load.arrivals import arrival_times
from bench.load.http_connection import Address, Answer, Connection, render
from bench.load.open_loop import precise_loop
from models.catalog.catalog import Catalog
from models.catalog.fed_items import FedItem

_LOOK_S = 0.05  # between two looks at the version of a service
_SEARCH_S = 0.25  # between two looks for the new item
_FEED_AT = 0.25  # share of the measured time after which the new item is fed
_NUM_ITEM_EVENTS = 5
_TAKEN = (200, 202)  # stored, or waiting in the service for the store
NEW_ITEM = "fresh-item"
_SEEKER = "fresh-seeker"  # user who may be recommended the new item


@dataclass(frozen=True)
class Plan:
    """Events of a watch."""

    user_ids: Sequence[str]  # who post events
    catalog: Catalog  # items of the events
    rate: float  # events per second
    seconds: float  # measured time: events of later times are posted and not measured
    tail_s: float  # time for the last measured events to be seen
    seed: int


@dataclass
class Watched:
    """Record of a watch. Times are monotonic."""

    posted: list[Posted] = field(default_factory=list)  # measured events that were taken
    answered: list[list[tuple[float, Version]]] = field(default_factory=list)  # by service
    fed_at: float | None = None  # the new item
    fifth_at: float | None = None  # its fifth event
    recommended_at: float | None = None
    posts: Tally = field(default_factory=Tally)
    looks: Tally = field(default_factory=Tally)
    num_unlabelled: int = 0  # answers that do not name exactly one release


def watch(system: LiveSystem, plan: Plan) -> Watched:
    """Post, feed and look for the measured time and the tail."""
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(_Watch(system, plan).run())


class _Watch:
    def __init__(self, system: LiveSystem, plan: Plan) -> None:
        self._system, self._plan = system, plan
        self._found = Watched()
        self._rng = np.random.default_rng([plan.seed, 1])

    async def run(self) -> Watched:
        plan = self._plan
        self._start = time.monotonic()
        self._end = self._start + plan.seconds + plan.tail_s
        tasks: list[Awaitable[None]] = [self._post_events(), self._follow_new_item()]
        for service in self._system.services:
            answered: list[tuple[float, Version]] = []
            self._found.answered.append(answered)
            tasks.append(self._look(service.port, answered))
        await asyncio.gather(*tasks)
        return self._found

    async def _look(self, port: int, answered: list[tuple[float, Version]]) -> None:
        """Record the first answer of each version that a service gives."""
        connection = Connection(Address(HOST, port))
        request = _recommend(self._system.asked, 1)
        while (at := time.monotonic()) < self._end:
            answer = await _ask(connection, request, self._found.looks)
            if answer is not None and answer.status == 200:
                version = find_version(answer.body)
                if version is None:
                    self._found.num_unlabelled += 1
                elif not answered or answered[-1][1] != version:
                    answered.append((time.monotonic(), version))
            await asyncio.sleep(max(at + _LOOK_S - time.monotonic(), 0.0))
        connection.close()

    async def _post_events(self) -> None:
        plan, connection = self._plan, self._connection()
        whole_s = plan.seconds + plan.tail_s
        due_s = arrival_times(round(plan.rate * whole_s), whole_s, self._rng)
        for number, due in enumerate(due_s.tolist()):
            await asyncio.sleep(max(self._start + due - time.monotonic(), 0.0))
            event_id = f"fresh-{number}"
            at = time.monotonic()
            is_taken = await self._post(connection, self._draw_user(), self._draw_item(), event_id)
            if is_taken and due < plan.seconds:
                self._found.posted.append(Posted(event_id, at))
        connection.close()

    async def _follow_new_item(self) -> None:
        """Feed an item like another one, post its events, and wait for its recommendation.

        The user who may get it has had the other item.
        """
        plan, found, connection = self._plan, self._found, self._connection()
        await asyncio.sleep(_FEED_AT * plan.seconds)
        model = self._draw_item()
        await self._post(connection, _SEEKER, model, "fresh-seeker-0")
        found.fed_at = time.monotonic()
        self._system.feed(item_like(plan.catalog, model))
        for number in range(_NUM_ITEM_EVENTS):
            user_id, event_id = self._draw_user(), f"fresh-item-{number}"
            await self._post(connection, user_id, model, f"{event_id}-model")
            await self._post(connection, user_id, NEW_ITEM, event_id)
        found.fifth_at = time.monotonic()
        while time.monotonic() < self._end and found.recommended_at is None:
            answer = await _ask(connection, _recommend(_SEEKER, 10), found.looks)
            if answer is not None and f'"{NEW_ITEM}"'.encode() in answer.body:
                found.recommended_at = time.monotonic()
            await asyncio.sleep(_SEARCH_S)
        connection.close()

    async def _post(
        self, connection: Connection, user_id: str, item_id: str, event_id: str
    ) -> bool:
        """Post an event; return whether the service has taken it."""
        body = json.dumps({"item_id": item_id, "event_id": event_id}).encode()
        request = render("POST", f"/events/{quote(user_id, safe='')}", body=body)
        answer = await _ask(connection, request, self._found.posts)
        return answer is not None and answer.status in _TAKEN

    def _connection(self) -> Connection:
        """Return a connection to the service that has the load."""
        return Connection(Address(HOST, self._system.services[0].port))

    def _draw_user(self) -> str:
        return self._plan.user_ids[int(self._rng.integers(len(self._plan.user_ids)))]

    def _draw_item(self) -> str:
        catalog = self._plan.catalog
        return catalog.item_ids[int(self._rng.integers(len(catalog)))]


def item_like(catalog: Catalog, item_id: str) -> FedItem:
    """Return the new item, with the texts of another one."""
    row = catalog.row(item_id)
    assert row is not None
    return FedItem(
        item_id=NEW_ITEM,
        title=catalog.titles[row] or item_id,
        brand=catalog.brands[row],
        categories=catalog.categories[row],
    )


def _recommend(user_id: str, num_items: int) -> bytes:
    return render("GET", f"/recommend/{quote(user_id, safe='')}?n={num_items}")


async def _ask(connection: Connection, request: bytes, tally: Tally) -> Answer | None:
    started_at = time.monotonic()
    answer = await connection.exchange(request)
    tally.add(answer, time.monotonic() - started_at)
    return answer
