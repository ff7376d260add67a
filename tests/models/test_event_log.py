"""The learner's log on disk: in order, each entry once, through merges, crashes and erasures."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import InvalidInput
from models.log.event_log import EventLog
from models.log.event_parts import SCHEMA, read_part, to_table, write_table
from models.log.tombstones import Tombstones, write_tombstone
from models.store.contract import BEGINNING, Logged
from models.store.events import Event
from models.store.records import hash_user
from tests.fakes.file_modes import modes_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


def make(count: int, *, start: int = 0) -> list[Logged]:
    return [
        Logged(
            f"{1000 + at // 3}-{at % 3}",
            f"user-{at % 4}",
            Event(f"item-{at}", at, f"e{at}", *(("purchase", at / 2) if at % 2 else ())),
        )
        for at in range(start, start + count)
    ]


def test_appended_events_come_back_in_order_from_any_entry_on(folder: Path) -> None:
    log = EventLog(folder)
    assert (log.end, list(log.read())) == (BEGINNING, [])
    events = make(20)
    for start in range(0, 20, 6):
        log.append(events[start : start + 6])
    assert list(log.read()) == events
    assert log.end == EventLog(folder).end == events[-1].entry
    for at, logged in enumerate(events):
        assert list(log.read(logged.entry)) == events[at + 1 :]


def test_the_log_is_private(folder: Path) -> None:
    EventLog(folder).append(make(5))
    assert modes_in(folder) == ({"0600"}, {"0700"})


def test_entries_that_are_there_already_are_not_appended_again(folder: Path) -> None:
    log, events = EventLog(folder), make(10)
    log.append(events[:6])
    log.append(events[3:])
    log.append(events)
    log.append([])
    assert list(log.read()) == events
    assert len(list(folder.iterdir())) == 2


def test_the_order_is_that_of_numbers_not_of_text(folder: Path) -> None:
    log = EventLog(folder)
    events = [
        Logged(entry, "u", Event("i", 1, entry)) for entry in ("9-2", "9-10", "10-0", "100-0")
    ]
    for each in events:
        log.append([each])
    assert list(log.read()) == events
    assert list(log.read("9-9")) == events[1:]


def test_many_appends_leave_few_parts(folder: Path) -> None:
    log, events = EventLog(folder, max_loose=8), make(40)
    reader = log.read()
    seen = []
    for at, each in enumerate(events):
        log.append([each])
        if at == 1:
            seen = [next(reader)]  # holds the first part, which is merged later
    assert len(list(folder.iterdir())) <= 8
    assert list(log.read()) == events
    assert seen + list(reader) == events


def test_a_crash_between_merge_and_removal_doubles_nothing(folder: Path, tmp_path: Path) -> None:
    log, events = EventLog(folder, max_loose=8), make(20)
    for each in events[:7]:
        log.append([each])
    shutil.copytree(folder, tmp_path / "before")
    log.append(events[7:8])
    assert len(list(folder.iterdir())) == 1
    shutil.copytree(tmp_path / "before", folder, dirs_exist_ok=True)
    again = EventLog(folder, max_loose=8)
    assert list(again.read()) == events[:8]
    for each in events[8:]:
        again.append([each])
    assert len(list(folder.iterdir())) < 8
    assert list(again.read()) == events


def test_erased_users_are_hidden_and_forgotten(folder: Path, tmp_path: Path) -> None:
    log, events = EventLog(folder), make(40)
    log.append(events[:20])
    log.append(events[20:])
    write_tombstone(tmp_path, "user-1", now_ms=1004)
    tombstones = Tombstones.load(tmp_path)
    visible = [each for each in events if each.user_id != "user-1" or each.arrived_ms > 1004]
    assert list(log.read(tombstones=tombstones)) == visible
    assert log.forget(frozenset({hash_user("user-3"), hash_user("nobody")})) == 10
    assert list(log.read()) == [each for each in events if each.user_id != "user-3"]
    assert log.end == events[-1].entry  # though it was an event of the forgotten user
    assert b"user-3" not in b"".join(part.read_bytes() for part in folder.iterdir())


def test_a_damaged_part_is_named(folder: Path) -> None:
    log = EventLog(folder)
    log.append(make(3))
    (part,) = folder.iterdir()
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(InvalidInput, match=part.name):
        list(log.read())


def test_a_part_of_an_older_version_has_events_without_type(tmp_path: Path) -> None:
    plain = [each._replace(event=each.event._replace(type="", value=None)) for each in make(5)]
    table = to_table(plain).select(["user_id", "entry", "event_id", "item_id", "timestamp"])
    pq.write_table(table, tmp_path / "old.parquet")
    assert list(read_part(tmp_path / "old.parquet")) == plain
    write_table(tmp_path / "new.parquet", to_table(plain))
    assert pq.read_schema(tmp_path / "new.parquet").equals(SCHEMA)
    assert pa.types.is_float64(SCHEMA.field("value").type)
