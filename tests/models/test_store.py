"""One contract for every UserStore, held by the memory twin and by a real server."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio

from models.catalog.sid import SidSpace
from models.errors import (
    InvalidRecord,
    InvalidSettings,
    InvalidUserId,
    ManifestConflict,
    StoreUnavailable,
)
from models.store.contract import UserStore
from models.store.embedded import attach
from models.store.events import DEDUP_LIMIT, HISTORY_LIMIT, STREAM_LIMIT, Event, Fate
from models.store.gate_report import GateReport, Verdict
from models.store.keys import DEFAULT_KEYS, UserRow
from models.store.manifest import Layer, Manifest, next_epoch
from models.store.records import PrefixRecord, RecordedPrefix
from models.store.redis_store import RedisStore
from models.store.user_state import UserState
from tests.fakes.memory_store import MemoryStore

SPACE = SidSpace((8, 8, 8))
OTHER_SPACE = SidSpace((8, 8, 8), codebook="retrained")
STRANGE_IDS = ["ann", "a}b{c", "ünï/cødé 🙂", "%7D", "x" * 256, "*", "a:h", "עברית"]


@dataclass
class Bench:
    """A store and a way to put bytes under its keys behind its back."""

    store: UserStore
    plant: Callable[[str, bytes], Awaitable[None]]


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with attach(tmp_path_factory.mktemp("state")) as server:
        yield server.url


@pytest.fixture
async def client(server_url: str) -> AsyncIterator["redis.asyncio.Redis"]:
    connection = redis.asyncio.Redis.from_url(server_url)
    await connection.flushall()
    yield connection
    await connection.aclose()


@pytest.fixture
async def redis_store(server_url: str, client: "redis.asyncio.Redis") -> AsyncIterator[RedisStore]:
    store = RedisStore(server_url, 5000)
    yield store
    await store.close()


@pytest.fixture(params=["memory", "redis"])
def bench(
    request: pytest.FixtureRequest, redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> Bench:
    if request.param == "redis":

        async def plant_in_redis(key: str, value: bytes) -> None:
            await client.set(key, value)

        return Bench(redis_store, plant_in_redis)
    memory = MemoryStore()

    async def plant_in_memory(key: str, value: bytes) -> None:
        memory.values[key] = value

    return Bench(memory, plant_in_memory)


@pytest.fixture
def store(bench: Bench) -> UserStore:
    return bench.store


def make_row(
    user_id: str, generation: int, *, space: SidSpace = SPACE, texts: tuple[str, ...] = ()
) -> UserRow:
    prefixes = (RecordedPrefix((1, generation % 8), 0, -0.5), RecordedPrefix((2, 3), 1, -1.0))
    return UserRow(user_id, PrefixRecord(generation, space.fingerprint, 1000, prefixes), texts)


def make_manifest(epoch: int, *generations: int) -> Manifest:
    base, *deltas = (
        Layer(generation=generation, created_at=1000, users=3) for generation in generations
    )
    return Manifest(
        epoch=epoch,
        fingerprint=SPACE.fingerprint,
        base=base,
        deltas=tuple(reversed(deltas)),
        release="toy",
    )


def make_events(count: int, *, start: int = 0) -> list[Event]:
    return [Event(f"item {n}", n, f"event-{n}") for n in range(start, start + count)]


async def test_an_unknown_user_has_nothing(store: UserStore) -> None:
    state = await store.read_user("nobody", [7, 5], SPACE)
    assert (state.history, state.record, state.skipped, state.has_lost_history) == (
        (),
        None,
        (),
        False,
    )
    assert await store.read_thoughts("nobody", 7) == ()
    assert await store.read_histories(["nobody"]) == {"nobody": ()}
    assert await store.read_manifest() is None
    assert await store.user_ids() == []


@pytest.mark.parametrize("user_id", STRANGE_IDS)
async def test_any_legal_user_id_keeps_its_own_history_and_record(
    store: UserStore, user_id: str
) -> None:
    row = make_row(user_id, 5, texts=("likes tea",))
    await store.append_events(user_id, make_events(2))
    await store.append_events("bystander", make_events(1))
    assert await store.write_layer(5, [row, make_row("bystander", 5)], 60) == 2
    state = await store.read_user(user_id, [5], SPACE)
    assert state.history == tuple(make_events(2))
    assert state.record == row.record
    assert await store.read_thoughts(user_id, 5) == ("likes tea",)
    assert await store.user_ids() == sorted([user_id, "bystander"])


@pytest.mark.parametrize("user_id", ["", "x" * 257, "é" * 129, "a\x00b", "a\nb", "\x85", "a\ud800"])
async def test_an_illegal_user_id_is_refused_everywhere(store: UserStore, user_id: str) -> None:
    with pytest.raises(InvalidUserId):
        await store.read_user(user_id, [5], SPACE)
    with pytest.raises(InvalidUserId):
        await store.append_events(user_id, make_events(1))
    with pytest.raises(InvalidUserId):
        await store.read_thoughts(user_id, 5)
    with pytest.raises(InvalidUserId):
        await store.write_layer(5, [make_row(user_id, 5)], 60)


async def test_the_newest_layer_that_holds_the_user_wins(store: UserStore) -> None:
    await store.write_layer(5, [make_row("ann", 5), make_row("bob", 5)], 60)
    await store.write_layer(7, [make_row("ann", 7)], 60)
    for user_id, layers, generation in [
        ("ann", [7, 5], 7),
        ("bob", [7, 5], 5),
        ("ann", [5], 5),
    ]:
        state = await store.read_user(user_id, layers, SPACE)
        assert state.record == make_row(user_id, generation).record
        assert state.skipped == ()
    assert (await store.read_user("ann", [], SPACE)).record is None


async def test_a_corrupt_newer_layer_is_passed_over_and_named(bench: Bench) -> None:
    await bench.store.write_layer(5, [make_row("ann", 5)], 60)
    for junk in (b"", b'{"prefixes": []}', b"\xff" * 1_000_000):
        await bench.plant(DEFAULT_KEYS.record("ann", 7), junk)
        state = await bench.store.read_user("ann", [7, 5], SPACE)
        assert state.record == make_row("ann", 5).record
        assert state.skipped == ("corrupt",)


async def test_a_record_of_another_user_is_never_used(bench: Bench) -> None:
    await bench.store.write_layer(5, [make_row("ann", 5)], 60)
    await bench.plant(DEFAULT_KEYS.record("ann", 7), make_row("bob", 7).record.encode("bob"))
    state = await bench.store.read_user("ann", [7, 5], SPACE)
    assert state.record == make_row("ann", 5).record
    assert state.skipped == ("foreign",)


async def test_a_record_of_another_space_or_generation_is_skewed(bench: Bench) -> None:
    await bench.store.write_layer(9, [make_row("ann", 9, space=OTHER_SPACE)], 60)
    await bench.plant(DEFAULT_KEYS.record("ann", 7), make_row("ann", 6).record.encode("ann"))
    state = await bench.store.read_user("ann", [9, 7, 5], SPACE)
    assert state.record is None
    assert state.skipped == ("skew", "skew")


async def test_thoughts_that_do_not_decode_or_are_foreign_are_none(bench: Bench) -> None:
    await bench.store.write_layer(5, [make_row("bob", 5, texts=("secret",))], 60)
    await bench.plant(DEFAULT_KEYS.thoughts("ann", 5), b"junk")
    assert await bench.store.read_thoughts("ann", 5) == ()


async def test_events_come_back_oldest_first_and_once_each(store: UserStore) -> None:
    late, early = Event("b", 20, "e2"), Event("a", 10, "e1")
    assert await store.append_events("ann", [late]) == 1
    assert await store.append_events("ann", [early, late, early]) == 1
    assert await store.append_events("ann", [early]) == 0
    assert (await store.read_user("ann", [], SPACE)).history == (early, late)


async def test_events_of_one_moment_keep_their_order_of_arrival(store: UserStore) -> None:
    events = [Event(item, 10, item) for item in "zebra"]
    await store.append_events("ann", events)
    assert (await store.read_user("ann", [], SPACE)).history == tuple(events)


async def test_a_history_keeps_the_newest_256(store: UserStore) -> None:
    await store.append_events("ann", make_events(700))
    expected = tuple(make_events(HISTORY_LIMIT, start=700 - HISTORY_LIMIT))
    assert (await store.read_user("ann", [], SPACE)).history == expected
    assert (await store.read_histories(["ann"]))["ann"] == expected


async def test_a_long_history_offered_again_adds_nothing(store: UserStore) -> None:
    """Once, events that were cut from the stream looked new and came back as the newest."""
    await store.append_events("ann", make_events(700))
    assert await store.append_events("ann", make_events(700)) == 0
    assert await store.append_events("ann", make_events(3, start=700)) == 3
    assert await store.append_events("ann", make_events(703)) == 0


async def test_an_event_id_is_known_for_a_day_however_much_came_since(store: UserStore) -> None:
    """Ids were once known for 512 events only: a retried event without a time became the newest."""
    await store.append_events("ann", [Event("item", 1, "retried")])
    for start in range(0, 1500, 300):
        await store.append_events("ann", make_events(300, start=start))
    again = Event("item", 5000, "retried")  # a service dates it when it comes
    assert await store.append_each({"ann": [again]}) == {"ann": [Fate.REPEATED]}
    assert again.item_id not in [e.item_id for e in (await store.read_histories(["ann"]))["ann"]]
    assert await store.append_events("ann", make_events(1500)) == 0


async def test_each_event_is_told_whether_it_is_new(store: UserStore) -> None:
    one, two, three = make_events(3)
    await store.append_events("ann", [one])
    found = await store.append_each({"ann": [two, one, two, three], "bob": [one, one]})
    new, again = Fate.NEW, Fate.REPEATED
    assert found == {"ann": [new, again, again, new], "bob": [new, again]}


async def test_an_event_that_a_full_history_has_no_room_for_is_told_apart(
    store: UserStore,
) -> None:
    """It was dropped, and the answer was that of a repeated event, which is stored."""
    await store.append_events("ann", make_events(HISTORY_LIMIT, start=100))
    early, late = Event("early", 99, "early"), Event("late", 1000, "late")
    found = await store.append_each({"ann": [early, late, *make_events(1, start=100)]})
    assert found == {"ann": [Fate.TOO_OLD, Fate.NEW, Fate.REPEATED]}
    history = (await store.read_histories(["ann"]))["ann"]
    assert (early in history, history[-1]) == (False, late)


async def test_of_two_who_bring_one_event_at_once_one_is_told_that_it_is_new(
    redis_store: RedisStore, server_url: str
) -> None:
    """Both find it missing before either has written."""
    other = RedisStore(server_url, 5000)
    try:
        for n in range(20):
            events = {"ann": [Event("before", n, f"{n}-before"), Event("item", n, f"{n}")]}
            found = await asyncio.gather(
                *(each.append_each(events) for each in (redis_store, other) * 3)
            )
            assert [[fates["ann"][at] for fates in found].count(Fate.NEW) for at in (0, 1)] == [
                1,
                1,
            ]
    finally:
        await other.close()
    assert len((await redis_store.read_histories(["ann"]))["ann"]) == 40


async def test_a_stream_is_cut_once_what_goes_is_older_than_a_day(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    key = DEFAULT_KEYS.history("ann")
    yesterday_ms = int(time.time() * 1000) - 25 * 3600 * 1000
    for n in range(600):
        await client.xadd(key, {f"old-{n}": f"{n} item"}, id=f"{yesterday_ms}-{n}")
    await redis_store.append_events("ann", [Event("item", 10_000, "today")])
    assert await client.xlen(key) == STREAM_LIMIT
    for n in range(0, 5000, 250):
        events = make_events(250, start=20_000 + n)
        await redis_store.append_events("ann", events)
    assert await client.xlen(key) == DEDUP_LIMIT
    state = await redis_store.read_user("ann", [], SPACE)
    assert state.history == tuple(make_events(HISTORY_LIMIT, start=25_000 - HISTORY_LIMIT))


async def test_a_reader_who_missed_more_than_is_read_at_once_sees_the_newest(
    redis_store: RedisStore,
) -> None:
    await redis_store.append_events("ann", make_events(3))
    known = await redis_store.read_user("ann", [], SPACE)
    for start in range(3, 1203, 300):
        await redis_store.append_events("ann", make_events(300, start=start))
    whole = await redis_store.read_user("ann", [], SPACE)
    assert await redis_store.read_user("ann", [], SPACE, known=known) == whole
    assert whole.history[-1] == make_events(1, start=1202)[0]
    again = await redis_store.read_user("ann", [], SPACE, known=whole)
    assert again.stream is whole.stream  # a long stream is continued like a short one


async def test_an_old_history_imported_late_does_not_push_out_new_events(store: UserStore) -> None:
    fresh = Event("fresh", 10_000, "fresh")
    await store.append_events("ann", [fresh])
    await store.append_events("ann", make_events(HISTORY_LIMIT))
    assert (await store.read_user("ann", [], SPACE)).history[-1] == fresh


async def test_the_gates_of_a_night_are_kept(bench: Bench) -> None:
    assert await bench.store.read_gates() is None
    verdict = Verdict(name="coverage", value=None, expected="at least 0.5", has_passed=True)
    report = GateReport(generation=7, gates=(verdict,))
    await bench.store.write_gates(report)
    assert await bench.store.read_gates() == report
    await bench.plant(DEFAULT_KEYS.gates, b"\xff")
    assert await bench.store.read_gates() is None


async def test_users_are_found_by_the_beginning_of_their_ids(store: UserStore) -> None:
    for user_id in STRANGE_IDS:
        await store.append_events(user_id, [Event("item", 1, "event")])
    for start in ("", "a", "a}", "*", "ü", "%", "x" * 256, "nobody", "ann"):
        found = await store.find_users(start, limit=9)
        expected = sorted(each for each in STRANGE_IDS if each.startswith(start))
        assert found == (tuple(expected), True), start
    few = await store.find_users("a", limit=2)
    assert (len(few.user_ids), few.is_complete) == (2, False)
    await store.write_layer(5, [make_row("ann", 5)], 60)
    assert (await store.find_users("", limit=9, generation=5)).user_ids == ("ann",)
    assert (await store.find_users("", limit=9, generation=6)).user_ids == ()


async def test_many_histories_are_appended_and_read_at_once(store: UserStore) -> None:
    histories = {f"user-{n}": make_events(n % 4) for n in range(1200)}
    total = sum(len(events) for events in histories.values())
    assert await store.append_histories(histories) == total
    assert await store.append_histories(histories) == 0
    with_events = sorted(user_id for user_id, events in histories.items() if events)
    assert await store.user_ids() == with_events
    read = await store.read_histories(list(histories))
    assert read == {user_id: tuple(events) for user_id, events in histories.items()}


@pytest.mark.parametrize(
    "event",
    [
        Event("", 1, "e"),
        Event("item", 1, ""),
        Event("item", -1, "e"),
        Event("item", 2**60, "e"),
        Event("a\nb", 1, "e"),
        Event("item", 1, "x" * 257),
        Event("\ud800", 1, "e"),
    ],
)
async def test_a_bad_event_is_refused_before_anything_is_written(
    store: UserStore, event: Event
) -> None:
    with pytest.raises(InvalidRecord):
        await store.append_events("ann", [*make_events(1), event])
    assert await store.user_ids() == []


async def test_a_layer_counts_its_records_and_refuses_those_of_another(store: UserStore) -> None:
    rows = [make_row(f"user-{n}", 5) for n in range(1100)]
    assert await store.write_layer(5, iter(rows), 60) == 1100
    user_ids = [row.user_id for row in rows]
    assert await store.count_records(5, [*user_ids, "nobody"]) == 1100
    assert await store.count_records(6, user_ids) == 0
    with pytest.raises(InvalidRecord, match="generation 6, expected 5"):
        await store.write_layer(5, [make_row("ann", 6)], 60)


async def test_what_was_known_before_changes_no_result(store: UserStore) -> None:
    """Every step of a user's life, read on top of each earlier reading and as a whole."""
    earlier: list[UserState | None] = [None]

    async def check(layers: Sequence[int], space: SidSpace = SPACE) -> None:
        whole = await store.read_user("ann", layers, space)
        for known in earlier:
            assert await store.read_user("ann", layers, space, known=known) == whole
        earlier.append(whole)

    await check([5])
    await store.append_events("ann", make_events(3))
    await check([5])
    await store.write_layer(5, [make_row("ann", 5)], 60)
    await check([5])
    await check([5], OTHER_SPACE)
    await store.append_events("ann", [Event("late", 0, "late"), *make_events(2)])
    await check([5])
    await store.write_layer(7, [make_row("ann", 7)], 60)
    await check([7, 5])
    await check([])
    await store.append_events("ann", make_events(700, start=100))
    await check([5])
    await store.append_events("ann", make_events(2, start=900))
    await check([7])


async def test_a_stream_that_is_not_the_known_one_continued_is_read_as_a_whole(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    async def forget(key: str) -> None:
        await client.delete(key)

    async def start_again(key: str) -> None:
        await client.delete(key)
        await asyncio.sleep(0.005)  # entry ids are milliseconds: within one, they would be the same
        await redis_store.append_events("ann", make_events(5, start=50))

    async def lose_the_first(key: str) -> None:
        entries: Any = await client.xrange(key, count=1)
        await client.xdel(key, entries[0][0])

    async def add_junk(key: str) -> None:
        await client.xadd(key, {b"id": b"junk"})

    async def become_a_string(key: str) -> None:
        await client.delete(key)
        await client.set(key, b"no stream")

    for change in (forget, start_again, lose_the_first, add_junk, become_a_string):
        await client.flushall()
        await redis_store.append_events("ann", make_events(5))
        known = await redis_store.read_user("ann", [], SPACE)
        await change(DEFAULT_KEYS.history("ann"))
        whole = await redis_store.read_user("ann", [], SPACE)
        assert await redis_store.read_user("ann", [], SPACE, known=known) == whole != known


async def test_a_known_user_is_not_read_and_decoded_again(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await redis_store.append_events("ann", make_events(256))
    await redis_store.write_layer(5, [make_row("ann", 5)], 60)
    known = await redis_store.read_user("ann", [5], SPACE)
    before = (await client.info("stats"))["total_net_output_bytes"]
    again = await redis_store.read_user("ann", [5], SPACE, known=known)
    after = (await client.info("stats"))["total_net_output_bytes"]
    assert again.record is known.record
    assert again.stream is known.stream
    num_info_bytes = len(str(await client.info("stats"))) * 2
    assert after - before < num_info_bytes + 500


async def test_a_manifest_is_swapped_only_from_what_is_held(store: UserStore) -> None:
    first, second = make_manifest(1, 5), make_manifest(2, 5, 7)
    await store.swap_manifest(None, first)
    assert await store.read_manifest() == first
    await store.swap_manifest(first, second)
    assert await store.read_manifest() == second
    for stale in (None, first):
        with pytest.raises(ManifestConflict):
            await store.swap_manifest(stale, make_manifest(9, 9))
    with pytest.raises(ManifestConflict, match="does not follow"):
        await store.swap_manifest(second, make_manifest(2, 5))
    assert await store.read_manifest() == second


async def test_of_many_swaps_at_once_one_wins(store: UserStore) -> None:
    held = make_manifest(1, 5)
    await store.swap_manifest(None, held)
    swaps = [store.swap_manifest(held, make_manifest(2, 100 + n)) for n in range(8)]
    outcomes = await asyncio.gather(*swaps, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ManifestConflict) for outcome in outcomes) == 7


async def test_a_manifest_written_with_other_spacing_can_still_be_swapped(bench: Bench) -> None:
    held = make_manifest(1, 5)
    await bench.plant(DEFAULT_KEYS.manifest, held.model_dump_json(indent=2).encode())
    await bench.store.swap_manifest(held, make_manifest(2, 7))
    assert await bench.store.read_manifest() == make_manifest(2, 7)


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"null", b"[]", b'{"epoch": 1}', b"\xff\xfe", b'{"epoch": 0}']
)
async def test_a_garbage_manifest_is_invalid_and_never_overwritten(
    bench: Bench, junk: bytes
) -> None:
    await bench.plant(DEFAULT_KEYS.manifest, junk)
    with pytest.raises(InvalidRecord, match="manifest"):
        await bench.store.read_manifest()
    with pytest.raises(InvalidRecord):
        await bench.store.swap_manifest(None, make_manifest(1, 5))


async def test_an_import_is_remembered_with_its_note(store: UserStore) -> None:
    assert await store.read_import("digest") is None
    await store.mark_import("digest", "22 users")
    assert await store.read_import("digest") == "22 users"
    assert await store.read_import("another") is None


async def test_a_ping_answers(store: UserStore) -> None:
    await store.ping()


def test_a_manifest_lists_its_layers_newest_first_and_writes_its_fingerprint_as_text() -> None:
    manifest = make_manifest(3, 5, 7, 9)
    assert [layer.generation for layer in manifest.layers] == [9, 7, 5]
    assert f'"{SPACE.fingerprint:016x}"'.encode() in manifest.encode()
    assert Manifest.decode(manifest.encode()) == manifest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"epoch": 2**64}, "epoch"),
        ({"epoch": 2**53}, "epoch"),
        ({"base": {"generation": 1, "created_at": 2**53, "users": 1}}, "created_at"),
        ({"deltas": [{"generation": 1, "created_at": 1, "users": 1}] * 100_000}, "bytes, expected"),
    ],
)
def test_a_manifest_that_nobody_can_serve_is_refused(change: dict[str, object], why: str) -> None:
    text = json.dumps(json.loads(make_manifest(1, 5).encode()) | change)
    with pytest.raises(InvalidRecord, match=why):
        Manifest.decode(text.encode())


def test_the_next_epoch_passes_both_the_held_one_and_the_seen_one() -> None:
    assert next_epoch(None, seen=0) == 1
    assert next_epoch(make_manifest(4, 5), seen=2) == 5
    assert next_epoch(make_manifest(4, 5), seen=9) == 10


def test_a_user_id_stays_inside_the_hash_tag_of_its_keys() -> None:
    for user_id in STRANGE_IDS:
        key = DEFAULT_KEYS.history(user_id)
        assert key.count("{") == key.count("}") == 1
        assert DEFAULT_KEYS.user_of_history(key.encode()) == user_id
    for junk in (b"ta:{%zz}:h", b"ta:{a b}:h", b"ta:{}:h", b"ta:{%ff}:h", b"ta:{%00}:h", b"other"):
        assert DEFAULT_KEYS.user_of_history(junk) is None


async def test_records_and_thoughts_expire_after_their_ttl() -> None:
    now = [0.0]
    memory = MemoryStore(clock=lambda: now[0])
    await memory.write_layer(5, [make_row("ann", 5, texts=("t",))], 60)
    now[0] = 59.9
    assert await memory.count_records(5, ["ann"]) == 1
    now[0] = 60.0
    assert await memory.count_records(5, ["ann"]) == 0
    assert await memory.read_thoughts("ann", 5) == ()


async def test_a_memory_store_can_be_away() -> None:
    memory = MemoryStore()
    memory.is_away = True
    with pytest.raises(StoreUnavailable):
        await memory.read_user("ann", [5], SPACE)


async def test_redis_sets_the_ttl_on_records_and_thoughts(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await redis_store.write_layer(5, [make_row("ann", 5, texts=("t",))], 60)
    for key in (DEFAULT_KEYS.record("ann", 5), DEFAULT_KEYS.thoughts("ann", 5)):
        assert 0 < await client.ttl(key) <= 60


async def test_keys_of_a_wrong_redis_type_read_as_corrupt(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await redis_store.write_layer(5, [make_row("ann", 5)], 60)
    await client.hset(DEFAULT_KEYS.record("ann", 7), "field", "x")
    await client.set(DEFAULT_KEYS.history("ann"), b"no stream")
    state = await redis_store.read_user("ann", [7, 5], SPACE)
    assert state.record == make_row("ann", 5).record
    assert (state.skipped, state.history, state.has_lost_history) == (("corrupt",), (), True)
    assert await redis_store.read_histories(["ann"]) == {"ann": ()}
    await client.hset(DEFAULT_KEYS.manifest, "field", "x")
    with pytest.raises(InvalidRecord):
        await redis_store.read_manifest()
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await redis_store.append_events("ann", make_events(1))


async def test_entries_that_are_no_events_are_passed_over(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await redis_store.append_events("ann", make_events(1))
    for value in (b"no-time item", b"12", b"\xff 1", b"-5 item", b"5 "):
        await client.xadd(DEFAULT_KEYS.history("ann"), {b"id": value})
    state = await redis_store.read_user("ann", [], SPACE)
    assert (state.history, state.has_lost_history) == (tuple(make_events(1)), True)


async def test_one_user_is_read_in_one_round_trip(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await redis_store.ping()
    before = (await client.info("stats"))["total_reads_processed"]
    await redis_store.read_user("ann", [9, 7, 5], SPACE)
    after = (await client.info("stats"))["total_reads_processed"]
    assert after - before == 2  # ours and that of the second INFO


async def test_a_cancellation_just_before_a_call_stops_it(redis_store: RedisStore) -> None:
    """redis-py lost it, so that Ctrl-C during an import's own work was swallowed."""

    async def cancelled_between_calls() -> None:
        await redis_store.ping()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await redis_store.append_events("ann", make_events(1))

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(cancelled_between_calls())
    assert await redis_store.user_ids() == []


@pytest.mark.system
async def test_a_hung_server_fails_within_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}", 50)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.read_user("ann", [5], SPACE)
        assert time.monotonic() - started < 1.0
        await store.close()


async def test_an_absent_server_is_one_line_without_the_password() -> None:
    store = RedisStore("redis://:secret@127.0.0.1:1/0", 50)
    with pytest.raises(StoreUnavailable) as caught:
        await store.ping()
    assert "127.0.0.1:1" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    await store.close()


@pytest.mark.parametrize("url", ["redis://host:port/0", "ftp://host", "redis://h?db=x"])
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings):
        RedisStore(url, 50)


async def test_a_server_that_refuses_to_serve_is_unavailable() -> None:
    """LOADING, READONLY, MOVED, CLUSTERDOWN: a miss, told apart from a wrong type."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(reply * 2)
        await writer.drain()
        writer.close()

    for text in ("LOADING in memory", "MOVED 3 1.2.3.4:1", "CLUSTERDOWN x", "READONLY x", "ERR x"):
        reply = f"-{text}\r\n".encode()
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        store = RedisStore(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", 500)
        with pytest.raises(StoreUnavailable):
            await store.read_user("ann", [5], SPACE)
        await store.close()
        server.close()
        await server.wait_closed()


async def test_a_full_server_stops_the_load(
    redis_store: RedisStore, client: "redis.asyncio.Redis"
) -> None:
    await client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await redis_store.write_layer(5, [make_row("ann", 5)], 60)
    finally:
        await client.config_set("maxmemory", 0)


async def test_a_connection_that_answers_for_another_request_is_dropped() -> None:
    """The reply holds bob's record and bob's history: neither may reach ann."""
    bobs = make_row("bob", 5).record.encode("bob")
    anns = make_row("ann", 5).record.encode("ann")
    history = b"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$2\r\ne1\r\n$6\r\n10 tea\r\n"
    replies = [(bobs, history), (anns, b"*0\r\n")]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        record, entries = replies.pop(0)
        while await reader.read(65536):
            writer.write(b"$%d\r\n%s\r\n$-1\r\n%s" % (len(record), record, entries))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    store = RedisStore(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", 500)
    state = await store.read_user("ann", [5], SPACE)
    assert state.record == make_row("ann", 5).record
    assert (state.history, state.skipped) == ((), ())
    await store.close()
    server.close()
    await server.wait_closed()
