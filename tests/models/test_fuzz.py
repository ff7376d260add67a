"""Fuzzing of readers of foreign bytes: records, replies of Redis, ids, cursors.

For any input the result is right or a declared error, and never another user's data.
"""

import asyncio
import re
import struct
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from urllib.parse import quote

import google_crc32c
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from models.catalog.sid import SidSpace
from models.errors import CursorGone, InvalidCursor, InvalidRecord, InvalidUserId, StoreUnavailable
from models.store.events import Event, check_event, check_user_id, decode_event, encode_event
from models.store.keys import DEFAULT_KEYS, newest_record
from models.store.manifest import Manifest
from models.store.records import (
    PrefixRecord,
    RecordedPrefix,
    decode_thoughts,
    encode_thoughts,
    hash_user,
)
from models.store.redis_store import RedisStore
from service.recommend.pages import Cursor, Cursors
from service.telemetry.request_headers import continue_trace
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import serving

SPACE = SidSpace((64, 64, 256))
ANN, BOB = "ann", "bob"
GENERATION = 1_700_000_000_123

OWNER = slice(27, 35)  # bytes of the user's hash

Mutate = Callable[[bytes], bytes]


def record_of(user: str, *, first: int, generation: int = GENERATION) -> bytes:
    """A sound record. All its prefixes start with `first`, which identifies the user."""
    prefixes = tuple(RecordedPrefix((first, code), code % 8, -code / 8) for code in range(12))
    return PrefixRecord(generation, SPACE.fingerprint, 1_700_000_000, prefixes).encode(user)


OF_ANN, OF_BOB = record_of(ANN, first=1), record_of(BOB, first=2)


@st.composite
def mutations(draw: st.DrawFn) -> Mutate:
    """Some flips, cuts, insertions and repetitions of a text of bytes, in that order."""
    steps: list[partial[bytes]] = []
    for _ in range(draw(st.integers(1, 4))):
        at, more = draw(st.integers(0, 400)), draw(st.binary(min_size=1, max_size=8))
        kind = draw(st.sampled_from(["set", "cut", "insert", "repeat", "drop"]))
        steps.append(partial(_mutate, at=at, more=more, kind=kind))

    def mutate(data: bytes) -> bytes:
        for step in steps:
            data = step(data)
        return data

    return mutate


def _mutate(data: bytes, *, at: int, more: bytes, kind: str) -> bytes:
    at = at % (len(data) + 1)
    return {
        "set": data[:at] + more + data[at + len(more) :],
        "cut": data[:at],
        "insert": data[:at] + more + data[at:],
        "repeat": data[:at] + data[max(at - len(more), 0) :],
        "drop": data[:at] + data[at + len(more) :],
    }[kind]


def sealed(data: bytes) -> bytes:
    """Replace the checksum with a valid one."""
    payload = data[:-4]
    crc: int = google_crc32c.value(payload)
    return payload + crc.to_bytes(4, "big")


@given(mutations(), st.booleans())
@settings(max_examples=500)
def test_a_mutated_record_is_invalid_or_sound_and_anns_own(mutate: Mutate, is_sealed: bool) -> None:
    """A valid checksum does not help: anybody who can write to Redis can compute one."""
    data = mutate(OF_ANN)
    if is_sealed and len(data) > 4:
        data = sealed(data)
    try:
        record = PrefixRecord.decode(data, user_id=ANN, space=SPACE)
    except InvalidRecord:
        return
    assert data[OWNER] == OF_ANN[OWNER]
    assert PrefixRecord.decode(record.encode(ANN), user_id=ANN, space=SPACE) == record
    assert all(
        0 <= code < size
        for prefix in record.prefixes
        for code, size in zip(prefix.codes, SPACE.sizes, strict=False)
    )


@given(mutations(), st.integers(0, 200), st.booleans())
@settings(max_examples=300)
def test_no_splice_with_bobs_record_is_anns(mutate: Mutate, at: int, is_sealed: bool) -> None:
    """The front of one and the rest of the other; the checksum made to fit or not."""
    data = mutate(OF_BOB[:at] + OF_ANN[at:])
    if is_sealed and len(data) > 4:
        data = sealed(data)
    with suppress(InvalidRecord):
        PrefixRecord.decode(data, user_id=ANN, space=SPACE)
        assert data[OWNER] == OF_ANN[OWNER]


@given(
    st.lists(st.integers(0, 255), min_size=5, max_size=5),
    st.one_of(st.just(SPACE.fingerprint), st.integers(0, 2**64 - 1)),
    st.binary(max_size=60),
    st.booleans(),
)
@settings(max_examples=500)
def test_any_head_of_anns_is_decoded_or_refused(
    fields: list[int], fingerprint: int, body: bytes, has_right_size: bool
) -> None:
    """Sealed and of the right user, with lengths, depths and flags that nobody writes."""
    version, flags, depth, high, count = fields
    if has_right_size:
        version, flags, high, count = 1, flags % 2, 0, count % 9
        size = depth * (1 + flags) + 3
        body = (body * (size * count + 1))[: size * count].ljust(size * count, b"\0")
    head = struct.pack(
        ">2sBBBHQQIQ",
        *(b"TA", version, flags, depth, 256 * high + count),
        *(GENERATION, fingerprint, 1, hash_user(ANN)),
    )
    data = sealed(head + body + bytes(4))
    with suppress(InvalidRecord):
        record = PrefixRecord.decode(data, user_id=ANN, space=SPACE)
        assert record.fingerprint == SPACE.fingerprint
        assert len(record.prefixes) == count
        assert all(
            len(prefix.codes) == 2 and all(map(int.__lt__, prefix.codes, SPACE.sizes))
            for prefix in record.prefixes
        )


@given(st.lists(st.one_of(st.none(), st.binary(max_size=80), st.sampled_from([OF_ANN, OF_BOB]))))
def test_the_newest_record_is_the_first_of_ann_and_the_others_are_accounted_for(
    blobs: list[bytes | None],
) -> None:
    layers = [GENERATION] * len(blobs)
    record, skipped = newest_record(ANN, layers, blobs, SPACE)
    there = [blob for blob in blobs if blob is not None]
    expected = there.index(OF_ANN) if OF_ANN in there else len(there)
    assert len(skipped) == expected
    assert [why == "foreign" for why in skipped] == [blob == OF_BOB for blob in there[:expected]]
    assert (record is None) == (OF_ANN not in there)
    assert record is None or {prefix.codes[0] for prefix in record.prefixes} == {1}


@given(mutations(), st.booleans())
def test_mutated_thoughts_are_no_thoughts_or_anns(mutate: Mutate, is_sealed: bool) -> None:
    data = mutate(encode_thoughts(["likes tea", "likes rain"], user_id=ANN))
    if is_sealed and len(data) > 15:
        data = data[:11] + google_crc32c.value(data[15:]).to_bytes(4, "big") + data[15:]
    with suppress(InvalidRecord):
        assert all(isinstance(text, str) for text in decode_thoughts(data, user_id=ANN))
        assert data[3:11] == hash_user(ANN).to_bytes(8, "big")


MANIFEST = Manifest.decode(
    b'{"epoch":3,"fingerprint":"00000000000000ff","base":{"generation":5,"created_at":1,"users":2},'
    b'"deltas":[{"generation":6,"created_at":1,"users":2}],"release":"toy"}'
)


@given(st.binary(max_size=300), mutations())
def test_any_bytes_are_a_manifest_or_an_invalid_record(data: bytes, mutate: Mutate) -> None:
    for given_bytes in (data, mutate(MANIFEST.encode())):
        with suppress(InvalidRecord):
            found = Manifest.decode(given_bytes)
            assert Manifest.decode(found.encode()) == found


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_a_sound_event_or_none(event_id: bytes, value: bytes) -> None:
    event = decode_event(event_id, value)
    if event is not None:
        check_event(event)
        assert decode_event(*encode_event(event)) == event


@given(st.text(max_size=40), st.integers(-(2**60), 2**60), st.text(max_size=40))
def test_an_event_that_passes_the_check_survives_the_round_trip(
    item_id: str, timestamp: int, event_id: str
) -> None:
    event = Event(item_id, timestamp, event_id)
    with suppress(InvalidRecord):
        check_event(event)
        assert decode_event(*encode_event(event)) == event


# Ids


IDS = st.one_of(
    st.text(min_size=1, max_size=60),
    st.text("{}:%/?#&+ .*\\\0é́\u202e\U0001f600", min_size=1, max_size=30),
    st.integers(250, 1100).map("x".__mul__),
    st.integers(120, 135).map("é".__mul__),
)


@given(IDS, IDS)
def test_keys_of_two_users_are_two_and_lead_back(one: str, other: str) -> None:
    for user in (one, other):
        try:
            key = DEFAULT_KEYS.history(user)
        except InvalidUserId:
            with pytest.raises(InvalidUserId):
                check_user_id(user)
            return
        assert DEFAULT_KEYS.user_of_history(key.encode()) == user
        assert key.count("{") == key.count("}") == 1
    keys = [
        {DEFAULT_KEYS.record(user, 1), DEFAULT_KEYS.thoughts(user, 1), DEFAULT_KEYS.history(user)}
        for user in (one, other)
    ]
    assert (keys[0] == keys[1]) == (one == other)
    assert one == other or not keys[0] & keys[1]


@given(st.lists(IDS.filter(lambda user: user not in (".", "..")), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_id_is_answered_as_itself_or_refused(ids: list[str]) -> None:
    """Over HTTP, percent-encoded; an event goes to the very user that it was sent for. Only `.` and
    `..` cannot be sent: clients take them out of a path (RFC 3986, 5.2.4), encoded or not."""

    async def ask() -> None:
        store = MemoryStore()
        async with serving(store) as service:
            for user in ids:
                encoded = quote(user.encode("utf-8", "surrogatepass"), safe="")
                answer = await service.client.get(f"/recommend/{encoded}")
                try:
                    check_user_id(user)
                except InvalidUserId:
                    assert answer.status_code in (404, 422), (user, answer.text)
                    continue
                assert answer.status_code == 200, (user, answer.text)
                assert answer.json()["user_id"] == user
                await service.client.post(f"/events/{encoded}", json={"item_id": "item-1"})
        sound = {user for user in ids if _is_sound(user)}
        assert set(await store.user_ids()) == sound

    asyncio.run(ask())


def _is_sound(user: str) -> bool:
    try:
        check_user_id(user)
    except InvalidUserId:
        return False
    return True


@pytest.mark.parametrize("text", ["é", "가", "Å", "ﬁ"])
def test_composed_and_decomposed_ids_are_two_users(text: str) -> None:
    """Ids are opaque: nobody normalises, so that nobody is given another's record."""
    forms = {unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(forms) > 1
    assert len({DEFAULT_KEYS.history(form) for form in forms}) == len(forms)
    assert len({hash_user(form) for form in forms}) == len(forms)


# Cursors and traces


CURSORS = Cursors("a secret of many letters")
QUERY = bytes(8)
SOME_CURSOR = Cursor(2000, 3, GENERATION, QUERY, b"release.", b"newest..", (1, 2, 3))
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@given(
    st.one_of(
        st.text(max_size=200), st.binary(max_size=200).map(urlsafe_b64encode).map(bytes.decode)
    ),
    st.binary(),
)
def test_any_text_is_no_cursor(text: str, query: bytes) -> None:
    with pytest.raises(InvalidCursor):
        CURSORS.read(text, now_s=1000, query=query)


@given(mutations(), st.integers(0, 4000))
def test_a_mutated_cursor_is_refused_or_is_the_one_that_was_given(
    mutate: Mutate, now_s: int
) -> None:
    """Base64 has spare bits and letters that it passes over: the same list in other letters."""
    text = mutate(CURSORS.write(SOME_CURSOR).encode()).decode("latin-1")
    with suppress(InvalidCursor, CursorGone):
        assert CURSORS.read(text, now_s=now_s, query=QUERY) == SOME_CURSOR
        assert now_s <= SOME_CURSOR.expires_at


@given(st.one_of(st.none(), st.binary(max_size=80), mutations().map(lambda mutate: mutate(TRACE))))
def test_any_traceparent_is_continued_or_begun_afresh(given_bytes: bytes | None) -> None:
    trace = continue_trace(given_bytes)
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", trace.header)
    assert continue_trace(trace.header).trace_id == trace.trace_id


# Replies of Redis


class Liar:
    """Answers each burst of commands with the reply set last, for any command."""

    def __init__(self) -> None:
        self.reply = b""
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError):
            while await reader.read(1 << 16):
                writer.write(self.reply)
                if not self.reply.endswith(b"\r\n"):
                    break  # the rest never comes
        writer.close()

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def lying_store() -> AsyncIterator[tuple[RedisStore, Liar]]:
    liar = Liar()
    server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
    store = RedisStore(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", 10)
    try:
        yield store, liar
    finally:
        with suppress(StoreUnavailable):
            await store.close()
        await liar.close()
        server.close()
        await server.wait_closed()


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def _entries(parts: tuple[bytes, bytes, bytes]) -> bytes:
    """One entry of a stream: its id, then a field and its value."""
    entry_id, name, value = map(_bulk, parts)
    return b"*1\r\n*2\r\n" + entry_id + b"*2\r\n" + name + value


REPLIES = st.one_of(
    st.sampled_from(
        [b"$-1\r\n", b"*0\r\n", b"*-1\r\n", b"+OK\r\n", b":7\r\n", b"-LOADING wait\r\n", b"-X\r\n"]
    ),
    st.sampled_from([OF_ANN, OF_BOB, MANIFEST.encode(), b"", b"text"]).map(_bulk),
    st.tuples(st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9)).map(_entries),
    st.binary(max_size=20),
)
ANSWERS = st.lists(REPLIES, min_size=1, max_size=5).map(b"".join)


@pytest.mark.parametrize("reply", [b"*-1\r\n", b"+OK\r\n", b":7\r\n", b"*1\r\n$-1\r\n"])
async def test_an_event_is_appended_to_what_is_no_stream_of_events(reply: bytes) -> None:
    async with lying_store() as (store, liar):
        liar.reply = 3 * reply
        with suppress(StoreUnavailable):
            await store.append_events(ANN, [Event("item", 1, "e")])


@given(answers=st.lists(st.tuples(ANSWERS, mutations(), st.booleans()), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_whatever_redis_says_a_read_is_anns_or_a_declared_error(
    answers: list[tuple[bytes, Mutate, bool]],
) -> None:
    async def ask() -> None:
        async with lying_store() as (store, liar):
            for said, mutate, is_mutated in answers:
                liar.reply = mutate(said) if is_mutated else said
                await _ask_everything(store)

    asyncio.run(ask())


async def _ask_everything(store: RedisStore) -> None:
    with suppress(StoreUnavailable):
        state = await store.read_user(ANN, [GENERATION], SPACE)
        assert state.record is None or {prefix.codes[0] for prefix in state.record.prefixes} == {1}
        for event in state.history:
            check_event(event)
    with suppress(StoreUnavailable, InvalidRecord):
        found = await store.read_manifest()
        assert found is None or Manifest.decode(found.encode()) == found
    with suppress(StoreUnavailable):
        assert all(isinstance(text, str) for text in await store.read_thoughts(ANN, GENERATION))
    with suppress(StoreUnavailable):
        await store.append_events(ANN, [Event("item", 1, "e")])
    for last in (None, "1-0"):
        with suppress(StoreUnavailable):
            erasures = await store.read_erasures(last)
            assert all(isinstance(user_id, str) for user_id in erasures.waiting)
