"""A store with histories over the toy catalog, and nights that think fast and checkably."""

import asyncio
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from models.catalog.catalog import Catalog
from models.reasoner.think import PathPrefix, UserHistory, UserThoughts
from models.release.release import Release
from models.store.events import Event
from models.store.manifest import Manifest
from models.store.records import PrefixRecord
from offline.live.go_live import LiveSettings
from offline.progress import make_progress
from offline.refresh import refresh
from offline.settings import RefreshSettings
from offline.think.micro_batch import Think
from tests.fakes.memory_store import MemoryStore
from tests.fakes.toy import toy_histories

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
NUM_USERS = 40


def think_of_own_items(catalog: Catalog) -> Think:
    """Prefixes of the items of the history itself, the last first."""

    def one(user: UserHistory) -> UserThoughts:
        codes = [tuple(catalog.sids[row][:2].tolist()) for row in reversed(user.rows)]
        found = [
            PathPrefix(prefix, 0, -float(rank), 1)
            for rank, prefix in enumerate(dict.fromkeys(codes))
        ]
        return UserThoughts(user.user_id, (f"about {user.user_id}",), tuple(found), 1, 10)

    return lambda users: [one(user) for user in users]


@dataclass
class NightWorld:
    """Nights over a store in memory."""

    release: Release
    out_dir: Path
    now_ms: int = NOW_MS
    wrap: Callable[[Think], Think] = lambda think: think  # adds faults
    thought: list[str] = field(default_factory=list)  # ids of users thought about by the last night
    store: MemoryStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = MemoryStore(clock=lambda: self.now_ms / 1000)
        items = self.release.catalog.item_ids
        for user, rows in enumerate(toy_histories(self.release.catalog, num_users=NUM_USERS)):
            for at, row in enumerate(rows):
                self.add(user_name(user), items[row], at=1000 + at)

    def add(self, user_id: str, item_id: str, *, at: int) -> None:
        event = Event(item_id, at, f"{item_id}-{at}")
        asyncio.run(self.store.append_events(user_id, [event]))

    def settings(self, **settings: Any) -> RefreshSettings:
        return RefreshSettings(
            self.release.directory,
            self.out_dir,
            **{"micro_batch": 4, "shard_batches": 3, "num_prefixes": 0} | settings,
        )

    def load(self, release: Release, _settings: RefreshSettings) -> Think:
        think = self.wrap(think_of_own_items(release.catalog))

        def thinking(users: Sequence[UserHistory]) -> list[UserThoughts]:
            self.thought += [user.user_id for user in users]
            return think(users)

        return thinking

    def night(self, *, live: LiveSettings | None = None, **settings: Any) -> dict[str, Any]:
        self.now_ms += HOUR_MS
        self.thought.clear()
        with asyncio.Runner() as runner:
            return refresh(
                self.settings(**settings),
                store=self.store,
                runner=runner,
                progress=make_progress(Console(file=io.StringIO())),
                now_ms=self.now_ms,
                load=self.load,
                live=live,
            )

    def manifest(self) -> Manifest | None:
        return asyncio.run(self.store.read_manifest())

    def record(self, user_id: str) -> PrefixRecord | None:
        manifest = self.manifest()
        assert manifest is not None
        layers = [layer.generation for layer in manifest.layers]
        return asyncio.run(self.store.read_user(user_id, layers, self.release.space)).record


def user_name(number: int) -> str:
    return f"user-{number:02d}"


@dataclass
class ImportedWorld:
    """A store filled by `offline import`, and nights that think about every chosen user again."""

    release: Release
    out_dir: Path
    progress: Progress
    store: MemoryStore = field(default_factory=MemoryStore)
    now_ms: int = NOW_MS
    wrap: Callable[[Think], Think] = lambda think: think

    def night(self, **settings: Any) -> dict[str, Any]:
        if settings.get("num_users") or settings.get("user_ids"):
            settings["is_whole"] = False
        settings = {"rethink": True, "num_prefixes": 0} | settings
        self.now_ms += 60_000
        with asyncio.Runner() as runner:
            return refresh(
                RefreshSettings(self.release.directory, self.out_dir, **settings),
                store=self.store,
                runner=runner,
                progress=self.progress,
                now_ms=self.now_ms,
                load=lambda release, _: self.wrap(think_of_own_items(release.catalog)),
            )

    def manifest(self) -> Manifest | None:
        return asyncio.run(self.store.read_manifest())

    def created_at(self, user_id: str) -> int | None:
        """Creation time of the user's live record; None without one."""
        manifest = self.manifest()
        assert manifest is not None
        layers = [layer.generation for layer in manifest.layers]
        state = asyncio.run(self.store.read_user(user_id, layers, self.release.space))
        return state.record.created_at if state.record else None


def write_data(folder: Path, catalog: Catalog, **columns: Any) -> None:
    """A data folder of 40 users over the toy catalog."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"user_id": f"user-{user:02d}", "item_id": catalog.item_ids[row], "timestamp": 9, "pos": at}
        for user, history in enumerate(toy_histories(catalog, num_users=NUM_USERS))
        for at, row in enumerate(history)
    ]
    table = pa.Table.from_pylist(rows)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, folder / "interactions.parquet")
    nothing = pa.array([None] * len(catalog), pa.string())
    items = {"item_id": list(catalog.item_ids), "title": nothing, "categories": nothing}
    pq.write_table(pa.table(items), folder / "items.parquet")
