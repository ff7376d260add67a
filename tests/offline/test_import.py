"""Import of a data folder: histories, repeated and interrupted imports, ids of events."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.progress import Progress

from models.catalog.dataset import Interaction
from models.errors import (
    StoreUnavailable,
)
from models.store.events import Event
from offline.plan.importer import ImportCounts, import_dataset, to_events
from tests.fakes.memory_store import MemoryStore
from tests.fakes.toy import toy_catalog, toy_histories
from tests.fakes.toy_night import NUM_USERS


async def test_an_import_fills_the_histories_and_a_second_one_adds_nothing(
    data_dir: Path, progress: Progress
) -> None:
    store = MemoryStore()
    catalog = toy_catalog()
    histories = toy_histories(catalog, num_users=NUM_USERS)
    num_events = sum(len(history) for history in histories)
    first = await import_dataset(data_dir, store, progress)
    assert first == ImportCounts(users=NUM_USERS, events=num_events, new_events=num_events)
    second = await import_dataset(data_dir, store, progress)
    assert (second.users, second.new_events, second.is_repeat) == (NUM_USERS, 0, True)
    read = await store.read_histories(["user-07"])
    items = [event.item_id for event in read["user-07"]]
    assert items == [catalog.item_ids[row] for row in histories[7]]


async def test_an_import_offered_again_beside_later_events_adds_nothing_either(
    data_dir: Path, progress: Progress
) -> None:
    store = MemoryStore()
    await import_dataset(data_dir, store, progress)
    await store.append_events("user-07", [Event("item-3", 10_000, "click")])
    assert (await import_dataset(data_dir, store, progress, again=True)).new_events == 0


async def test_a_longer_export_adds_what_is_new(data_dir: Path, progress: Progress) -> None:
    store = MemoryStore()
    await import_dataset(data_dir, store, progress)
    table = pq.read_table(data_dir / "interactions.parquet")
    more = {"user_id": "newcomer", "item_id": "item-0", "timestamp": 5, "pos": 0}
    longer = pa.concat_tables([table, pa.Table.from_pylist([more], schema=table.schema)])
    pq.write_table(longer, data_dir / "interactions.parquet")
    assert (await import_dataset(data_dir, store, progress)).new_events == 1


async def test_a_note_that_is_not_ours_does_not_stop_an_import(
    data_dir: Path, progress: Progress
) -> None:
    class Scribbled(MemoryStore):
        async def read_import(self, digest: str) -> str | None:
            return '{"users": "many"}'

    assert (await import_dataset(data_dir, Scribbled(), progress)).new_events > 0


class FailingStore(MemoryStore):
    """Goes away after seven users of the first batch."""

    fails = True

    async def append_histories(
        self, histories: Mapping[str, Sequence[Event]], *, is_logged: bool = True
    ) -> int:
        if not self.fails:
            return await super().append_histories(histories, is_logged=is_logged)
        await super().append_histories(dict(list(histories.items())[:7]), is_logged=is_logged)
        raise StoreUnavailable("gone")


async def test_an_interrupted_import_is_finished_by_the_next(
    data_dir: Path, progress: Progress
) -> None:
    store = FailingStore()
    with pytest.raises(StoreUnavailable):
        await import_dataset(data_dir, store, progress)
    assert len(await store.user_ids()) == 7
    store.fails = False
    await import_dataset(data_dir, store, progress)
    assert len(await store.user_ids()) == NUM_USERS


def test_a_history_keeps_the_order_of_pos_where_times_contradict_it() -> None:
    history = [Interaction("a", 50, 0), Interaction("b", 20, 1), Interaction("c", 60, 2)]
    assert [(event.item_id, event.timestamp) for event in to_events(history)] == [
        ("a", 50),
        ("b", 50),
        ("c", 60),
    ]


def test_event_ids_survive_a_longer_export_and_tell_repeats_apart() -> None:
    history = [Interaction("a", 5, 3), Interaction("a", 5, 4), Interaction("b", 5, 5)]
    ids = [event.event_id for event in to_events(history)]
    longer = [Interaction("z", 1, 0), *(replace_pos(each, each.pos + 9) for each in history)]
    assert len(set(ids)) == 3
    assert [event.event_id for event in to_events(longer)][1:] == ids


def replace_pos(interaction: Interaction, pos: int) -> Interaction:
    return interaction._replace(pos=pos)
