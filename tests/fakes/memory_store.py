"""The store without a server: the same bytes under the same keys, for tests and one-process tools.

It passes the contract test of `store.RedisStore`.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from models.catalog.fed_items import FedItem
from models.catalog.sid import SidSpace
from models.errors import InvalidRecord, StoreUnavailable
from models.store.connection import LOG_LIMIT
from models.store.contract import (
    BEGINNING,
    Arrival,
    Erasure,
    Erasures,
    FoundUsers,
    ItemPage,
    Logged,
    LogPage,
    Memory,
    Request,
    order_of,
)
from models.store.events import (
    STREAM_LIMIT,
    Event,
    Fate,
    check_event,
    check_user_id,
    merge_events,
    stream_limit,
    tell_fates,
)
from models.store.gate_report import GateReport
from models.store.keys import (
    DEFAULT_KEYS,
    PAST_LIMIT,
    UserRow,
    check_swap,
    encode_row,
    jitter_of,
    newest_record,
    read_texts,
)
from models.store.manifest import Manifest
from models.store.model_pointer import ModelPointer
from models.store.queues import check_request, check_room
from models.store.records import hash_user
from models.store.upkeep import decode_manifests
from models.store.user_state import UserState
from models.store.wish_turns import WishTurn, decode_turns, encode_turns


class MemoryStore:
    """A ServingStore, NightStore and LearnerStore in memory."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, log_limit: int = LOG_LIMIT
    ) -> None:
        self.values: dict[str, bytes] = {}  # the strings that Redis would hold
        self.is_away = False  # every call fails
        self._expiry: dict[str, float] = {}
        self._streams: dict[str, list[Event]] = {}
        self._arrived_ms: dict[tuple[str, str], int] = {}
        self._past: list[bytes] = []
        self._requests: dict[str, Request] = {}
        self._erasures: dict[str, Erasure] = {}
        self._workers: set[str] = set()
        self._erased: list[int] = []
        self._imports: dict[str, str] = {}
        self._log: list[Logged] = []
        self._log_limit = log_limit
        self._last_trimmed = BEGINNING
        self._items: list[FedItem] = []
        self._clock = clock

    async def read_user(
        self,
        user_id: str,
        layers: Sequence[int],
        space: SidSpace,
        *,
        known: UserState | None = None,
    ) -> UserState:
        await self.before_read(user_id)
        await self.ping()
        blobs = [self._get(DEFAULT_KEYS.record(user_id, generation)) for generation in layers]
        record, skipped = newest_record(user_id, layers, blobs, space)
        wish = decode_turns(self._get(DEFAULT_KEYS.wish(user_id)))
        state = UserState(self._history(user_id), record, skipped, wish=wish)
        await self.after_read(user_id)
        return state

    async def before_read(self, user_id: str) -> None:
        """Called before each `read_user`; subclasses delay, count or fail reads here."""

    async def after_read(self, user_id: str) -> None:
        """Called once the state is read and before `read_user` returns it."""

    async def append_events(self, user_id: str, events: Sequence[Event]) -> int:
        return await self.append_histories({user_id: events})

    async def append_histories(
        self, histories: Mapping[str, Sequence[Event]], *, is_logged: bool = True
    ) -> int:
        fates = await self._append_all(histories, is_logged=is_logged)
        return sum(of_user.count(Fate.NEW) for of_user in fates.values())

    async def append_each(self, histories: Mapping[str, Sequence[Event]]) -> dict[str, list[Fate]]:
        return await self._append_all(histories, is_logged=True)

    async def _append_all(
        self, histories: Mapping[str, Sequence[Event]], *, is_logged: bool
    ) -> dict[str, list[Fate]]:
        await self.ping()
        for user_id, events in histories.items():
            check_user_id(user_id)
            for event in events:
                check_event(event)
        found = {user_id: self._append(user_id, events) for user_id, events in histories.items()}
        for user_id, fates in found.items() if is_logged else ():
            for event, fate in zip(histories[user_id], fates, strict=True):
                if fate is Fate.NEW:
                    self._add_to_log(user_id, event)
        return found

    def _add_to_log(self, user_id: str, event: Event) -> None:
        newest = order_of(self._log[-1].entry if self._log else BEGINNING)
        milliseconds, number = max((time.time_ns() // 1_000_000, 0), (newest[0], newest[1] + 1))
        self._log.append(Logged(f"{milliseconds}-{number}", user_id, event))
        while len(self._log) > self._log_limit:
            self._last_trimmed = self._log.pop(0).entry

    def _append(self, user_id: str, events: Sequence[Event]) -> list[Fate]:
        stream = self._streams.get(DEFAULT_KEYS.history(user_id), [])
        fates, now_ms = tell_fates(stream, events), time.time_ns() // 1_000_000
        fresh = [event for event, fate in zip(events, fates, strict=True) if fate is Fate.NEW]
        if fresh:
            arrived_ms = [self._arrived_ms[user_id, each.event_id] for each in stream]
            limit = stream_limit(arrived_ms, len(fresh), now_ms=now_ms)
            self._streams[DEFAULT_KEYS.history(user_id)] = [*stream, *fresh][-limit:]
            self._arrived_ms |= {(user_id, each.event_id): now_ms for each in fresh}
        return fates

    async def read_thoughts(self, user_id: str, generation: int) -> tuple[str, ...]:
        await self.ping()
        return read_texts(self._get(DEFAULT_KEYS.thoughts(user_id, generation)), user_id)

    async def read_wish(self, user_id: str) -> tuple[WishTurn, ...]:
        await self.ping()
        return decode_turns(self._get(DEFAULT_KEYS.wish(user_id)))

    async def write_wish(self, user_id: str, turns: Sequence[WishTurn], ttl_s: int) -> None:
        await self.ping()
        key = DEFAULT_KEYS.wish(user_id)
        self.values[key] = encode_turns(turns)
        self._expiry[key] = self._clock() + (ttl_s if turns else 1)

    async def write_layer(
        self, generation: int, rows: Iterable[UserRow], ttl_s: int, *, jitter_s: int = 0
    ) -> int:
        await self.ping()
        num_written = 0
        for row in rows:
            values = encode_row(generation, row, DEFAULT_KEYS)
            self.values.update(values)
            expiry = self._clock() + ttl_s + jitter_of(row.user_id, jitter_s)
            self._expiry.update(dict.fromkeys(values, expiry))
            num_written += 1
        return num_written

    async def count_records(self, generation: int, user_ids: Sequence[str]) -> int:
        await self.ping()
        return sum(
            self._get(DEFAULT_KEYS.record(user_id, generation)) is not None for user_id in user_ids
        )

    async def read_manifest(self) -> Manifest | None:
        await self.ping()
        current = self._get(DEFAULT_KEYS.manifest)
        return Manifest.decode(current) if current is not None else None

    async def swap_manifest(self, expected: Manifest | None, new: Manifest) -> None:
        await self.ping()
        current = self._get(DEFAULT_KEYS.manifest)
        check_swap(current, expected, new)
        if current is not None:
            self._past = [current, *self._past][:PAST_LIMIT]
        self.values[DEFAULT_KEYS.manifest] = new.encode()

    async def user_ids(self) -> list[str]:
        await self.ping()
        users = (DEFAULT_KEYS.user_of_history(key.encode()) for key in self._streams)
        return sorted(user_id for user_id in users if user_id is not None)

    async def find_users(
        self, start: str, *, limit: int, generation: int | None = None, patience_s: float = 1.0
    ) -> FoundUsers:
        await self.ping()
        keys = self._streams if generation is None else self.values
        users = map(DEFAULT_KEYS.user_of, (key.encode() for key in keys if key.startswith("ta:{")))
        found = sorted(
            user
            for user in set(users)
            if user is not None
            and user.startswith(start)
            and (generation is None or self._get(DEFAULT_KEYS.record(user, generation)) is not None)
        )
        return FoundUsers(tuple(found[:limit]), is_complete=len(found) <= limit)

    async def read_histories(self, user_ids: Sequence[str]) -> dict[str, tuple[Event, ...]]:
        await self.ping()
        return {user_id: self._history(user_id) for user_id in user_ids}

    async def read_import(self, digest: str) -> str | None:
        await self.ping()
        return self._imports.get(digest)

    async def mark_import(self, digest: str, note: str) -> None:
        await self.ping()
        self._imports[digest] = note

    async def read_gates(self) -> GateReport | None:
        await self.ping()
        current = self._get(DEFAULT_KEYS.gates)
        try:
            return GateReport.decode(current) if current is not None else None
        except InvalidRecord:
            return None

    async def write_gates(self, report: GateReport) -> None:
        await self.ping()
        self.values[DEFAULT_KEYS.gates] = report.encode()

    async def read_model(self) -> ModelPointer | None:
        await self.ping()
        current = self._get(DEFAULT_KEYS.model)
        return ModelPointer.decode(current) if current is not None else None

    async def swap_model(self, expected: ModelPointer | None, new: ModelPointer) -> None:
        await self.ping()
        check_swap(self._get(DEFAULT_KEYS.model), expected, new, name="model pointer")
        self.values[DEFAULT_KEYS.model] = new.encode()

    async def read_log(self, after: str, count: int) -> LogPage:
        await self.ping()
        events = [each for each in self._log if order_of(each.entry) > order_of(after)][:count]
        is_cut = bool(events) and order_of(self._last_trimmed) > order_of(after)
        return LogPage(tuple(events), events[-1].entry if events else after, is_cut)

    async def log_end(self) -> str:
        await self.ping()
        return self._log[-1].entry if self._log else BEGINNING

    async def offer_items(self, items: Sequence[FedItem]) -> None:
        await self.ping()
        self._items += items

    async def read_items(self, after: str, count: int) -> ItemPage:
        await self.ping()
        start = order_of(after)[0]
        found = self._items[start : start + count]
        return ItemPage(tuple(found), f"{start + len(found)}-0" if found else after)

    async def past_manifests(self) -> list[Manifest]:
        await self.ping()
        return decode_manifests(self._past)

    async def delete_records(self, generation: int, user_ids: Sequence[str]) -> None:
        await self.ping()
        for user_id in user_ids:
            self.values.pop(DEFAULT_KEYS.record(user_id, generation), None)
            self.values.pop(DEFAULT_KEYS.thoughts(user_id, generation), None)

    async def delete_generations(self, is_garbage: Callable[[int], bool]) -> dict[int, int]:
        await self.ping()
        found = [(DEFAULT_KEYS.generation_of(key.encode()), key) for key in self.values]
        garbage = [(of, key) for of, key in found if of is not None and is_garbage(of)]
        for _, key in garbage:
            del self.values[key]
        return dict(Counter(of for of, _ in garbage))

    async def erase_user(self, user_id: str) -> int:
        await self.ping()
        start = DEFAULT_KEYS.of_user(user_id)[: -len("*")]
        keys = [key for key in (*self.values, *self._streams) if key.startswith(start)]
        for key in keys:
            self.values.pop(key, None)
            self._streams.pop(key, None)
        self._log = [each for each in self._log if each.user_id != user_id]
        for entry in [each.entry for each in self._requests.values() if each.user_id == user_id]:
            del self._requests[entry]
        return len(keys)

    async def memory(self) -> Memory:
        await self.ping()
        return Memory(sum(map(len, self.values.values())), 0)

    async def record_bytes(self, generation: int, user_ids: Sequence[str]) -> float:
        await self.ping()
        found = [self._get(DEFAULT_KEYS.record(user_id, generation)) for user_id in user_ids]
        sizes = [len(blob) for blob in found if blob is not None]
        return sum(sizes) / max(len(sizes), 1)

    async def read_arrivals(
        self, user_ids: Sequence[str], since_ms: int
    ) -> dict[str, list[Arrival]]:
        await self.ping()
        found: dict[str, list[Arrival]] = {}
        for user_id in user_ids:
            stream = self._streams.get(DEFAULT_KEYS.history(user_id), [])
            stamped = [(self._arrived_ms[user_id, each.event_id], each) for each in stream]
            found[user_id] = [
                Arrival(f"{ms}-{at}", event)
                for at, (ms, event) in enumerate(stamped)
                if ms >= since_ms
            ]
        return found

    async def imports(self) -> dict[str, str]:
        await self.ping()
        return dict(self._imports)

    async def clock_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def request_thinking(self, user_id: str, instruction: str | None = None) -> None:
        await self.ping()
        check_request(user_id, instruction)
        entry = f"{time.time_ns()}-{len(self._requests)}"
        self._requests[entry] = Request(entry, user_id, instruction)

    async def beat(self, worker: str, *, is_leaving: bool = False) -> None:
        await self.ping()
        (self._workers.discard if is_leaving else self._workers.add)(worker)

    async def count_workers(self) -> int:
        await self.ping()
        return len(self._workers)

    async def take_requests(
        self, worker: str, *, count: int, wait_ms: int, idle_ms: int
    ) -> list[Request]:
        """Serve one worker: it gets unsettled requests again."""
        await self.ping()
        return list(self._requests.values())[:count]

    async def count_requests(self) -> int:
        await self.ping()
        return len(self._requests)

    async def settle_requests(self, requests: Sequence[Request]) -> None:
        await self.ping()
        for request in requests:
            self._requests.pop(request.entry, None)

    async def request_erasure(self, user_id: str) -> None:
        await self.ping()
        check_user_id(user_id)
        check_room(len(self._erasures))
        entry = f"{time.time_ns()}-{len(self._erasures)}"
        self._erasures[entry] = Erasure(entry, user_id)

    async def read_erasures(self, last: str | None) -> Erasures:
        await self.ping()
        waiting = frozenset(erasure.user_id for erasure in self._erasures.values())
        since = len(self._erased) if last is None else int(last)
        return Erasures(waiting, frozenset(self._erased[since:]), str(len(self._erased)))

    async def take_erasures(self, worker: str, *, count: int, idle_ms: int) -> list[Erasure]:
        """Serve one worker: it gets unsettled erasures again."""
        await self.ping()
        return list(self._erasures.values())[:count]

    async def settle_erasures(self, erasures: Sequence[Erasure]) -> None:
        await self.ping()
        self._erased += [hash_user(erasure.user_id) for erasure in erasures]
        for erasure in erasures:
            self._erasures.pop(erasure.entry, None)

    async def ping(self) -> None:
        if self.is_away:
            raise StoreUnavailable("the memory store is away")

    async def close(self) -> None:
        return None

    def _get(self, key: str) -> bytes | None:
        if self._clock() >= self._expiry.get(key, float("inf")):
            return None
        return self.values.get(key)

    def _history(self, user_id: str) -> tuple[Event, ...]:
        return merge_events(self._streams.get(DEFAULT_KEYS.history(user_id), [])[-STREAM_LIMIT:])
