"""The binary record and the thoughts: exact round trips, total decoders."""

import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.catalog.sid import SidSpace
from models.errors import ForeignRecord, InvalidRecord, SkewedRecord
from models.store.records import (
    MAX_PATHS,
    MAX_THOUGHT_CHARS,
    PrefixRecord,
    RecordedItem,
    RecordedPrefix,
    decode_thoughts,
    encode_thoughts,
    hash_user,
)

NARROW = SidSpace((256, 256, 256))
WIDE = SidSpace((8192, 8192, 8192), prefix_depth=2, codebook="wide")


def make_record(
    space: SidSpace, prefixes: Sequence[tuple[tuple[int, ...], int | None, float]]
) -> PrefixRecord:
    recorded = tuple(RecordedPrefix(*prefix) for prefix in prefixes)
    return PrefixRecord(1_700_000_000_123, space.fingerprint, 1_700_000_000, recorded)


def many_prefixes(count: int) -> list[tuple[tuple[int, ...], int, float]]:
    return [((index % 256, 255 - index % 256), index % 5, -index / 8) for index in range(count)]


@st.composite
def records(draw: st.DrawFn) -> tuple[PrefixRecord, SidSpace]:
    space = draw(st.sampled_from([NARROW, WIDE, SidSpace((4, 300, 4, 4), prefix_depth=3)]))
    codes = st.tuples(*(st.integers(0, size - 1) for size in space.sizes[: space.prefix_depth]))
    logprob = st.integers(0, 0xFFFF).map(lambda steps: -steps / 1024)
    path = st.none() | st.integers(0, 254)
    prefix = st.builds(RecordedPrefix, codes, path, logprob)
    sid = st.tuples(*(st.integers(0, size - 1) for size in space.sizes))
    bonus = st.integers(1, 255).map(lambda steps: steps / 16)
    item = st.builds(RecordedItem, sid, bonus)
    return (
        PrefixRecord(
            draw(st.integers(0, 2**64 - 1)),
            space.fingerprint,
            draw(st.integers(0, 2**32 - 1)),
            tuple(draw(st.lists(prefix, max_size=40))),
            tuple(draw(st.lists(item, max_size=70))),
        ),
        space,
    )


@given(records(), st.text(max_size=300))
def test_a_record_survives_the_round_trip(
    given_record: tuple[PrefixRecord, SidSpace], user_id: str
) -> None:
    record, space = given_record
    assert PrefixRecord.decode(record.encode(user_id), user_id=user_id, space=space) == record


def test_the_number_that_stands_for_no_path_is_no_path() -> None:
    none = make_record(NARROW, [((1, 2), None, -1.0)])
    assert none.encode("ann")[-7] == 255
    with pytest.raises(InvalidRecord, match="path 255, expected one below 255"):
        make_record(NARROW, [((1, 2), 255, -1.0)]).encode("ann")


@given(st.binary(max_size=600))
def test_any_bytes_are_an_invalid_record(data: bytes) -> None:
    with pytest.raises(InvalidRecord):
        PrefixRecord.decode(data, user_id="ann", space=NARROW)


@given(st.integers(0), st.integers(1, 255))
def test_one_changed_byte_is_noticed(position: int, flip: int) -> None:
    data = bytearray(make_record(NARROW, many_prefixes(32)).encode("ann"))
    data[position % len(data)] ^= flip
    with pytest.raises(InvalidRecord):
        PrefixRecord.decode(bytes(data), user_id="ann", space=NARROW)


def test_every_truncation_and_every_extension_is_noticed() -> None:
    data = make_record(NARROW, many_prefixes(32)).encode("ann")
    for broken in [*(data[:length] for length in range(len(data))), data + b"\0", data * 2]:
        with pytest.raises(InvalidRecord):
            PrefixRecord.decode(broken, user_id="ann", space=NARROW)


def test_a_record_of_another_user_is_foreign() -> None:
    data = make_record(NARROW, many_prefixes(3)).encode("ann")
    with pytest.raises(ForeignRecord):
        PrefixRecord.decode(data, user_id="bob", space=NARROW)


def test_a_record_of_another_sid_space_is_skewed() -> None:
    data = make_record(NARROW, many_prefixes(3)).encode("ann")
    with pytest.raises(SkewedRecord):
        PrefixRecord.decode(
            data, user_id="ann", space=SidSpace((256, 256, 256), codebook="retrained")
        )


def test_a_code_outside_its_codebook_is_invalid_even_with_a_right_checksum() -> None:
    small = SidSpace((4, 4, 4))
    liar = PrefixRecord(1, small.fingerprint, 1, (RecordedPrefix((1, 4), 0, -1.0),))
    with pytest.raises(InvalidRecord, match="code 4 at level 1"):
        PrefixRecord.decode(liar.encode("ann"), user_id="ann", space=small)


def test_prefixes_of_another_depth_are_invalid() -> None:
    deep = PrefixRecord(1, NARROW.fingerprint, 1, (RecordedPrefix((1, 2, 3), 0, -1.0),))
    with pytest.raises(InvalidRecord, match="prefixes of 3 codes"):
        PrefixRecord.decode(deep.encode("ann"), user_id="ann", space=NARROW)


def test_a_record_of_32_prefixes_takes_at_most_200_bytes() -> None:
    assert len(make_record(NARROW, many_prefixes(32)).encode("ann")) == 199


def with_items(count: int, *, codes: int = 3) -> PrefixRecord:
    items = tuple(RecordedItem((index % 256,) * codes, 1 + index / 16) for index in range(count))
    return replace(make_record(NARROW, many_prefixes(32)), items=items)


def test_a_record_of_32_prefixes_and_60_items_takes_at_most_450_bytes() -> None:
    assert len(with_items(60).encode("ann")) == 442


def test_every_change_of_a_record_with_items_is_noticed() -> None:
    data = with_items(20).encode("ann")
    broken = [data[:length] for length in range(len(data))]
    broken += [data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :] for at in range(len(data))]
    for each in [*broken, data + b"\0"]:
        with pytest.raises(InvalidRecord):
            PrefixRecord.decode(each, user_id="ann", space=NARROW)


def test_a_record_without_items_has_the_bytes_of_before() -> None:
    assert with_items(0).encode("ann")[2] == 1
    assert with_items(1).encode("ann")[2] == 2


def test_a_bonus_keeps_a_sixteenth_of_a_nat_and_saturates() -> None:
    items = tuple(RecordedItem((1, 2, code), 10.0**code) for code in (0, 1, 2))
    items = (*items, RecordedItem((1, 2, 9), 0.001))
    record = replace(make_record(NARROW, []), items=items)
    decoded = PrefixRecord.decode(record.encode("ann"), user_id="ann", space=NARROW)
    assert [item.bonus for item in decoded.items] == [1.0, 10.0, 255 / 16, 1 / 16]


def test_items_of_another_depth_or_without_a_bonus_are_invalid() -> None:
    with pytest.raises(InvalidRecord, match="items of 2 codes"):
        PrefixRecord.decode(with_items(3, codes=2).encode("ann"), user_id="ann", space=NARROW)
    for bonus in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InvalidRecord, match="above 0"):
            replace(with_items(0), items=(RecordedItem((1, 2, 3), bonus),)).encode("ann")


def test_logprobs_keep_three_decimals_and_saturate() -> None:
    record = make_record(NARROW, [((0, 0), 0, -1.23456), ((0, 1), 0, -1e9), ((0, 2), 0, 1e-7)])
    decoded = PrefixRecord.decode(record.encode("ann"), user_id="ann", space=NARROW)
    kept, floor, ceiling = (prefix.logprob for prefix in decoded.prefixes)
    assert abs(kept + 1.23456) <= 0.5 / 1024
    assert floor == pytest.approx(-63.999, abs=1e-3)
    assert ceiling == 0.0


@pytest.mark.parametrize(
    "prefixes",
    [
        [((0, 0), 0, math.nan)],
        [((0, 0), 0, -math.inf)],
        [((0, 0), 256, -1.0)],
        [((-1, 0), 0, -1.0)],
        [((70_000, 0), 0, -1.0)],
        [((0, 0), 0, -1.0), ((0,), 0, -1.0)],
        [((0, 0), 0, -1.0)] * 1025,
    ],
)
def test_what_the_layout_cannot_hold_is_refused(
    prefixes: list[tuple[tuple[int, ...], int, float]],
) -> None:
    with pytest.raises(InvalidRecord):
        make_record(NARROW, prefixes).encode("ann")


@given(st.lists(st.text(max_size=200), max_size=MAX_PATHS), st.text(max_size=20))
def test_thoughts_survive_the_round_trip(texts: list[str], user_id: str) -> None:
    assert decode_thoughts(encode_thoughts(texts, user_id=user_id), user_id=user_id) == tuple(texts)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_thoughts(data: bytes) -> None:
    with pytest.raises(InvalidRecord):
        decode_thoughts(data, user_id="ann")


def test_thoughts_about_another_user_are_foreign() -> None:
    with pytest.raises(ForeignRecord):
        decode_thoughts(encode_thoughts(["likes tea"], user_id="ann"), user_id="bob")


@pytest.mark.parametrize(
    "body",
    [
        b"not zlib",
        zlib.compress(b"[1, 2"),
        zlib.compress(b"[1, 2]"),
        zlib.compress(b'"text"'),
        zlib.compress(b'{"a": 1}'),
        zlib.compress(b"null"),
        zlib.compress(b'["\\ud800"]'),
        zlib.compress(b"[" * 100_000),
        zlib.compress(json.dumps(["x" * 5_000_000]).encode()),
        zlib.compress(json.dumps([""] * 500_000).encode()),
        zlib.compress(json.dumps(["x" * (MAX_THOUGHT_CHARS + 1)]).encode()),
    ],
)
def test_sealed_nonsense_is_no_thoughts(body: bytes) -> None:
    head = b"TW\x01" + hash_user("ann").to_bytes(8, "big")
    sealed = head + struct.pack(">I", google_crc32c.value(body)) + body
    with pytest.raises(InvalidRecord, match=r"unpack|list|expected at most"):
        decode_thoughts(sealed, user_id="ann")


def test_long_thoughts_are_cut_and_lone_surrogates_replaced() -> None:
    data = encode_thoughts(["x" * 10_000, "a\ud800b"], user_id="ann")
    cut, replaced = decode_thoughts(data, user_id="ann")
    assert (len(cut), replaced) == (4096, "a?b")


def test_the_longest_thoughts_still_decode() -> None:
    longest = encode_thoughts(["\x01" * 4096] * MAX_PATHS, user_id="ann")
    assert len(decode_thoughts(longest, user_id="ann")) == MAX_PATHS
    with pytest.raises(InvalidRecord):
        encode_thoughts([""] * (MAX_PATHS + 1), user_id="ann")
