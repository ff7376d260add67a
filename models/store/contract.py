"""Contract of a user store: protocols for the store in Redis and the one in memory.

    UserStore                            records, histories and the manifest
    ThinkRequests, ErasureRequests       requests that the service makes of a worker
    ItemFeed, ModelPointers              items that were offered, and the live model
    ServingStore                         all that the service needs: the five above
    Upkeep, RequestQueue, ErasureQueue   maintenance, and the worker's side of the requests
    NightStore                           all that the night needs
    LogStore                             the event log
    LearnerStore                         all that the learner needs

Every method raises StoreUnavailable if the store does not answer in time or refuses. A method that
takes one user id raises InvalidUserId for a bad one. Knows no server.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from models.catalog.fed_items import FedItem
from models.catalog.sid import SidSpace
from models.store.events import Event, Fate
from models.store.gate_report import GateReport
from models.store.keys import UserRow
from models.store.manifest import Manifest
from models.store.model_pointer import ModelPointer
from models.store.user_state import UserState
from models.store.wish_turns import WishTurn

BEGINNING = "0-0"  # an entry id before the first entry of every stream


class Arrival(NamedTuple):
    """An event together with its place in the stream."""

    entry: str  # id of the stream entry, "<unix milliseconds>-<number>"
    event: Event

    @property
    def arrived_ms(self) -> int:
        return int(self.entry.partition("-")[0])


class Logged(NamedTuple):
    """An event in the log of all users."""

    entry: str  # id of the stream entry, "<unix milliseconds>-<number>"
    user_id: str
    event: Event

    @property
    def arrived_ms(self) -> int:
        return int(self.entry.partition("-")[0])


class LogPage(NamedTuple):
    """Entries of the event log, in order."""

    events: tuple[Logged, ...]  # an event may come twice; it counts once, by user and event id
    last: str  # where this page ended, for the next one
    is_cut: bool  # entries between the page before and this one were lost before they were read


class FoundUsers(NamedTuple):
    """Users found by the beginning of their ids."""

    user_ids: tuple[str, ...]  # sorted
    is_complete: bool  # False: there may be more


class ItemPage(NamedTuple):
    """Items of the feed, in the order in which they came."""

    items: tuple[FedItem, ...]  # of two with the same id the later one holds
    last: str  # where this page ended, for the next one


class Memory(NamedTuple):
    """Memory of a server; in a cluster, of the master with the least room."""

    used: int  # bytes
    limit: int  # bytes; 0 if the server has no limit

    @property
    def share(self) -> float:
        return self.used / self.limit if self.limit else 0.0


class Request(NamedTuple):
    """A request to think about a user soon."""

    entry: str  # id of the stream entry
    user_id: str
    instruction: str | None = None
    num_tries: int = 1  # deliveries to a worker so far, this one included


class Erasure(NamedTuple):
    """A request to erase a user."""

    entry: str  # id of the stream entry
    user_id: str


class Erasures(NamedTuple):
    """Users to hide and users to forget, since an earlier look."""

    waiting: frozenset[str]  # ids of users who wait to be erased
    erased: frozenset[int]  # `hash_user` of users erased since the earlier look
    last: str  # where this look ended, for the next one


def order_of(entry: str) -> tuple[int, int]:
    """Return the place of an entry id in the order of its stream."""
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number or 0)


class UserStore(Protocol):
    """Records, histories and the manifest."""

    async def read_user(
        self,
        user_id: str,
        layers: Sequence[int],
        space: SidSpace,
        *,
        known: UserState | None = None,
    ) -> UserState:
        """Return the history and the newest valid record among `layers`.

        Args:
            layers: generations, newest first.
            known: result of an earlier read of this user. It saves work and changes no result.
        """
        ...

    async def append_events(self, user_id: str, events: Sequence[Event]) -> int:
        """Append events and return the number of new ones.

        Raises InvalidRecord for a bad event, before anything is written.
        """
        ...

    async def append_histories(
        self, histories: Mapping[str, Sequence[Event]], *, is_logged: bool = True
    ) -> int:
        """Append events of many users in two or three round trips; return the number of new ones.

        is_logged: put the new ones into the event log too; False for an import.

        Raises InvalidRecord for a bad event, before anything is written.
        """
        ...

    async def append_each(self, histories: Mapping[str, Sequence[Event]]) -> dict[str, list[Fate]]:
        """Append events of many users and tell what became of each event.

        An event that comes twice is new exactly once, even if two processes append it at the same
        time. Raises InvalidRecord for a bad event, before anything is written.
        """
        ...

    async def read_thoughts(self, user_id: str, generation: int) -> tuple[str, ...]:
        """Return reasoning texts by path number.

        Empty if there are none, or if they do not decode (logged).
        """
        ...

    async def read_wish(self, user_id: str) -> tuple[WishTurn, ...]:
        """Return the turns of a wish, oldest first; none if it is over or does not decode."""
        ...

    async def write_wish(self, user_id: str, turns: Sequence[WishTurn], ttl_s: int) -> None:
        """Keep these turns for `ttl_s` seconds, in place of those before; none end the wish."""
        ...

    async def write_layer(
        self, generation: int, rows: Iterable[UserRow], ttl_s: int, *, jitter_s: int = 0
    ) -> int:
        """Write rows of one generation and return their number.

        The keys of a user live for `ttl_s` seconds and up to `jitter_s` more. The extra time
        depends on the user alone, so that the keys of a generation do not expire all at once.

        Raises:
            InvalidRecord: a record of another generation.
            StoreFull: the store has no memory for more.
        """
        ...

    async def count_records(self, generation: int, user_ids: Sequence[str]) -> int:
        """Count the users among `user_ids` that have a record of `generation`."""
        ...

    async def read_manifest(self) -> Manifest | None:
        """Return the manifest; None if there is none.

        Raises InvalidRecord if the key holds something other than a manifest.
        """
        ...

    async def read_gates(self) -> GateReport | None:
        """Return the gates of the newest night that went live; None if they do not decode."""
        ...

    async def write_gates(self, report: GateReport) -> None:
        """Keep the gates of a night that goes live, in place of those before."""
        ...

    async def past_manifests(self) -> list[Manifest]:
        """Return the replaced manifests that decode, newest first."""
        ...

    async def swap_manifest(self, expected: Manifest | None, new: Manifest) -> None:
        """Compare and set: raise ManifestConflict unless the store holds `expected`."""
        ...

    async def user_ids(self) -> list[str]:
        """Return the sorted ids of all users with a history."""
        ...

    async def find_users(
        self, start: str, *, limit: int, generation: int | None = None, patience_s: float = 1.0
    ) -> FoundUsers:
        """Return up to `limit` users whose ids begin with `start`, within `patience_s` seconds.

        generation: users with a record of this generation; None: users with a history.
        """
        ...

    async def read_histories(self, user_ids: Sequence[str]) -> dict[str, tuple[Event, ...]]:
        """Return the history of each user; empty for a user without one."""
        ...

    async def read_import(self, digest: str) -> str | None:
        """Return the note on a completed import of data with this digest; None without one."""
        ...

    async def mark_import(self, digest: str, note: str) -> None:
        """Note that the import of data with this digest is complete."""
        ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class ThinkRequests(Protocol):
    """The service's side of the requests to think."""

    async def request_thinking(self, user_id: str, instruction: str | None = None) -> None:
        """Have a worker think about this user within seconds, if one is running.

        Raises InvalidInput for an instruction that is too long.
        """
        ...

    async def count_workers(self) -> int:
        """Return the number of workers that have had a heartbeat within two minutes."""
        ...


class ErasureRequests(Protocol):
    """The service's side of the requests to erase."""

    async def request_erasure(self, user_id: str) -> None:
        """Have a worker erase this user.

        Raises StoreUnavailable if too many users wait already.
        """
        ...

    async def read_erasures(self, last: str | None) -> Erasures:
        """Return all waiting users, and the users erased since the look that ended with `last`.

        last: `Erasures.last` of the earlier look; None without one, and then `erased` is empty.
        """
        ...


class ItemFeed(Protocol):
    """Items that were offered or withdrawn."""

    async def offer_items(self, items: Sequence[FedItem]) -> None:
        """Put items into the feed, in this order."""
        ...

    async def read_items(self, after: str, count: int) -> ItemPage:
        """Return up to `count` items behind `after`, the `last` of an earlier page or BEGINNING.

        An entry that is no item is skipped (logged).
        """
        ...


class ModelPointers(Protocol):
    """The pointer to the live model."""

    async def read_model(self) -> ModelPointer | None:
        """Return the model pointer; None if there is none.

        Raises InvalidRecord if the key holds something other than a model pointer.
        """
        ...

    async def swap_model(self, expected: ModelPointer | None, new: ModelPointer) -> None:
        """Compare and set: raise ManifestConflict unless the store holds `expected`.

        Raises it also if the epoch does not rise.
        """
        ...


class ServingStore(UserStore, ThinkRequests, ErasureRequests, ItemFeed, ModelPointers, Protocol):
    """All that the service needs; in Redis the rights to read, to ping and to append suffice."""


class Upkeep(Protocol):
    """Maintenance by the night: deletion, memory and arrivals."""

    async def delete_records(self, generation: int, user_ids: Sequence[str]) -> None:
        """Delete records and thoughts of these users in one generation."""
        ...

    async def delete_generations(self, is_garbage: Callable[[int], bool]) -> dict[int, int]:
        """Delete all keys of each garbage generation; return generation -> number of keys."""
        ...

    async def erase_user(self, user_id: str) -> int:
        """Delete all data of this user, with waiting requests; return the number of keys."""
        ...

    async def memory(self) -> Memory: ...

    async def record_bytes(self, generation: int, user_ids: Sequence[str]) -> float:
        """Return the mean bytes of these users' record keys, overhead of Redis included.

        0 if none of them has a record.
        """
        ...

    async def read_arrivals(
        self, user_ids: Sequence[str], since_ms: int
    ) -> dict[str, list[Arrival]]:
        """Return each user's events in order of arrival.

        since_ms: the earliest arrival, unix milliseconds on the store's clock.
        """
        ...

    async def imports(self) -> dict[str, str]:
        """Return digest -> note of all completed imports."""
        ...

    async def clock_ms(self) -> int:
        """Return the store's clock, which stamps arrivals; unix milliseconds."""
        ...


class RequestQueue(ThinkRequests, Protocol):
    """Both sides of the requests to think."""

    async def take_requests(
        self, worker: str, *, count: int, wait_ms: int, idle_ms: int
    ) -> list[Request]:
        """Return up to `count` requests for this worker.

        First come requests that another worker has held for `idle_ms`. Without any, wait up to
        `wait_ms` for new ones.
        """
        ...

    async def count_requests(self) -> int:
        """Return the number of requests that are not settled yet."""
        ...

    async def beat(self, worker: str, *, is_leaving: bool = False) -> None:
        """Note that a worker is alive, or that it ends."""
        ...

    async def settle_requests(self, requests: Sequence[Request]) -> None:
        """Remove requests that are done, or that never can be."""
        ...


class ErasureQueue(ErasureRequests, Protocol):
    """Both sides of the requests to erase."""

    async def take_erasures(self, worker: str, *, count: int, idle_ms: int) -> list[Erasure]:
        """Return up to `count` erasures for this worker, without waiting.

        First come erasures that another worker has held for `idle_ms`; without any, new ones.
        """
        ...

    async def settle_erasures(self, erasures: Sequence[Erasure]) -> None:
        """Remove erasures that are done, and note the hashes of their users."""
        ...


class NightStore(UserStore, Upkeep, RequestQueue, ErasureQueue, ModelPointers, Protocol):
    """All that the night needs: to load, to maintain and to think on demand."""


class LogStore(Protocol):
    """The event log: events of all users that were new when they were appended, in order."""

    async def read_log(self, after: str, count: int) -> LogPage:
        """Return up to `count` events behind `after`, the `last` of an earlier page or BEGINNING.

        An entry that is no event is skipped.
        """
        ...

    async def log_end(self) -> str:
        """Return the id of the newest entry; BEGINNING without one."""
        ...


class LearnerStore(UserStore, ErasureRequests, LogStore, ItemFeed, ModelPointers, Protocol):
    """All that the learner needs."""
