"""One night's results for one user as bytes: a record of prefixes, and the thoughts.

A record (big-endian) is

    magic "TA", version u8, flags u8, prefix depth u8, number of prefixes u16,
    generation u64, SID-space fingerprint u64, created u32 (unix seconds), hash of the user id u64,
    version 2 only: codes of an item u8, number of items u16,
    per prefix: its codes (u8 each, u16 when the flag says wide), path u8 (255: no thought found
    it), -log-probability u16,
    version 2 only, per item: its codes, bonus u8 in sixteenths of a nat,
    CRC32C u32 over all of it

A prefix of two narrow codes takes 5 bytes, an item of three 4, the rest of a record 42: together
442 bytes at 32 prefixes and 60 items. A record without items is of version 1. The decoders are
total: any bytes give a value or `InvalidRecord`. Knows nothing of Redis, keys or reasoners.
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import google_crc32c

from models.catalog.sid import Prefix, Sid, SidSpace
from models.errors import ForeignRecord, InvalidRecord, SkewedRecord

MAX_PREFIXES = 1024
MAX_ITEMS = 1024
MAX_PATHS = 64
MAX_THOUGHT_CHARS = 4096

_HEAD = struct.Struct(">2sBBBHQQIQ")
_CRC = struct.Struct(">I")
_COUNTS = struct.Struct(">BH")  # codes of an item, number of items
_MAGIC = b"TA"
_VERSION, _WITH_ITEMS = 1, 2
_WIDE = 1  # flag: codes take two bytes
_NO_PATH = 255
_STEPS_PER_NAT = 1024  # a log-probability keeps three decimals, down to -63.999
_BONUS_STEPS = 16  # per nat
MAX_BONUS = 255 / _BONUS_STEPS

_THOUGHTS_HEAD = struct.Struct(">2sBQI")
_THOUGHTS_MAGIC = b"TW"
_MAX_THOUGHTS_BYTES = 1 << 21  # unpacked: 64 texts of 4,096 characters, six bytes each at worst


class RecordedPrefix(NamedTuple):
    """A prefix as a record holds it."""

    codes: Prefix
    path: int | None  # number of the reasoning path that found it; None if no thought did
    logprob: float  # of the night, at most 0


class RecordedItem(NamedTuple):
    """An item that the night found likely, as a record holds it."""

    codes: Sid
    bonus: float  # nats that it adds to the item's score; above 0, at most MAX_BONUS


@dataclass(frozen=True)
class PrefixRecord:
    """Prefixes and items of one user."""

    generation: int
    fingerprint: int  # of the SID space
    created_at: int  # unix seconds of the thinking itself
    prefixes: tuple[RecordedPrefix, ...]  # best first
    items: tuple[RecordedItem, ...] = ()  # largest bonus first

    @cached_property
    def path_of(self) -> Mapping[Prefix, int | None]:
        """Path by codes. Computed once, as a record that is kept answers many requests."""
        return {prefix.codes: prefix.path for prefix in self.prefixes}

    @cached_property
    def codes_key(self) -> bytes:
        """Codes of all prefixes, as a key: tuples are hashed at each look-up, bytes once."""
        codes = [code for prefix in self.prefixes for code in prefix.codes]
        return struct.pack(f">H{len(codes)}I", self._depth, *codes)

    @cached_property
    def items_key(self) -> bytes:
        """Codes and bonuses of all items, as a key."""
        codes = [code for item in self.items for code in item.codes]
        bonuses = [item.bonus for item in self.items]
        return struct.pack(f">{len(codes)}I{len(bonuses)}d", *codes, *bonuses)

    @property
    def _depth(self) -> int:
        return _common_depth([prefix.codes for prefix in self.prefixes], "prefixes", MAX_PREFIXES)

    def encode(self, user_id: str) -> bytes:
        """Raises InvalidRecord for values that the layout cannot hold."""
        depth, item_codes = self._depth, [item.codes for item in self.items]
        levels = _common_depth(item_codes, "items", MAX_ITEMS)
        all_codes = (*(prefix.codes for prefix in self.prefixes), *item_codes)
        is_wide = any(max(codes, default=0) > 255 for codes in all_codes)
        prefix_entry, item_entry = _prefix_entry(depth, is_wide), _item_entry(levels, is_wide)
        try:
            head = _HEAD.pack(
                _MAGIC,
                _WITH_ITEMS if self.items else _VERSION,
                _WIDE if is_wide else 0,
                depth,
                len(self.prefixes),
                self.generation,
                self.fingerprint,
                self.created_at,
                hash_user(user_id),
            )
            if self.items:
                head += _COUNTS.pack(levels, len(self.items))
            entries = [
                prefix_entry.pack(*prefix.codes, _to_byte(prefix.path), _quantise(prefix.logprob))
                for prefix in self.prefixes
            ]
            entries += [item_entry.pack(*item.codes, _to_steps(item.bonus)) for item in self.items]
        except struct.error as exc:
            raise InvalidRecord(f"record of generation {self.generation}: {exc}") from exc
        return _seal(head + b"".join(entries))

    @classmethod
    def decode(cls, data: bytes, *, user_id: str, space: SidSpace) -> "PrefixRecord":
        """Decode a sound record of this user and SID space. Total over any bytes.

        Raises:
            ForeignRecord: a sound record of another user.
            SkewedRecord: a sound record of another SID space.
            InvalidRecord: any other bytes.
        """
        if not _HEAD.size + _CRC.size <= len(data):
            raise InvalidRecord(f"record of {len(data)} bytes, too short to be one")
        magic, version, flags, depth, count, *rest = _HEAD.unpack_from(data)
        generation, fingerprint, created_at, user_hash = rest
        is_known = magic == _MAGIC and version in (_VERSION, _WITH_ITEMS)
        if not is_known or flags & ~_WIDE or count > MAX_PREFIXES:
            raise InvalidRecord(f"record head {data[:7].hex()}, expected version 1 or 2")
        begin, levels, num_items = _HEAD.size, 0, 0
        if version == _WITH_ITEMS:
            begin += _COUNTS.size
            levels, num_items = _read_counts(data)
        entry, item_entry = (
            make(size, bool(flags & _WIDE))
            for make, size in ((_prefix_entry, depth), (_item_entry, levels))
        )
        middle = begin + count * entry.size
        if len(data) != middle + num_items * item_entry.size + _CRC.size:
            raise InvalidRecord(
                f"record of {len(data)} bytes, its head says {count} prefixes, {num_items} items"
            )
        payload = _unseal(data)
        if user_hash != hash_user(user_id):
            raise ForeignRecord("record of another user")
        if fingerprint != space.fingerprint:
            raise SkewedRecord(
                f"record of SID space {fingerprint:016x}, expected {space.fingerprint:016x}"
            )
        if count and depth != space.prefix_depth:
            raise InvalidRecord(f"prefixes of {depth} codes, expected {space.prefix_depth}")
        if num_items and levels != space.levels:
            raise InvalidRecord(f"items of {levels} codes, expected {space.levels}")
        prefixes = _decode_prefixes(entry, payload[begin:middle], space) if count else ()
        items = _decode_items(item_entry, payload[middle:], space) if num_items else ()
        return cls(generation, fingerprint, created_at, prefixes, items)


def hash_user(user_id: str) -> int:
    """Return an unsigned 64-bit hash of any `str`."""
    digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def encode_thoughts(texts: Sequence[str], *, user_id: str) -> bytes:
    """Compress reasoning texts, in order of path number.

    The bytes are magic "TW", version, user hash, CRC32C and zlib of a JSON list. Texts above
    MAX_THOUGHT_CHARS are cut, lone surrogates replaced. Raises InvalidRecord above MAX_PATHS texts.
    """
    if len(texts) > MAX_PATHS:
        raise InvalidRecord(f"{len(texts)} thoughts, expected at most {MAX_PATHS}")
    clean = [text[:MAX_THOUGHT_CHARS].encode("utf-8", "replace").decode() for text in texts]
    body = zlib.compress(json.dumps(clean, ensure_ascii=False).encode())
    crc = google_crc32c.value(body)
    return _THOUGHTS_HEAD.pack(_THOUGHTS_MAGIC, _VERSION, hash_user(user_id), crc) + body


def decode_thoughts(data: bytes, *, user_id: str) -> tuple[str, ...]:
    """Decode the bytes of `encode_thoughts`. Total over any bytes.

    Raises ForeignRecord for thoughts about another user, InvalidRecord for any other bytes.
    """
    if not _THOUGHTS_HEAD.size <= len(data) <= _MAX_THOUGHTS_BYTES:
        raise InvalidRecord(f"thoughts of {len(data)} bytes, too few or too many")
    magic, version, user_hash, crc = _THOUGHTS_HEAD.unpack_from(data)
    body = data[_THOUGHTS_HEAD.size :]
    if magic != _THOUGHTS_MAGIC or version != _VERSION or crc != google_crc32c.value(body):
        raise InvalidRecord(f"thoughts head {data[:3].hex()}, or a wrong checksum")
    if user_hash != hash_user(user_id):
        raise ForeignRecord("thoughts about another user")
    try:
        texts = json.loads(zlib.decompressobj().decompress(body, _MAX_THOUGHTS_BYTES))
        "".join(texts).encode()  # nothing but texts, and no lone surrogate among them
    except (zlib.error, ValueError, TypeError, RecursionError) as exc:
        raise InvalidRecord(f"thoughts do not unpack ({type(exc).__name__})") from exc
    if not isinstance(texts, list):
        raise InvalidRecord("thoughts are no list of texts")
    if len(texts) > MAX_PATHS or any(len(text) > MAX_THOUGHT_CHARS for text in texts):
        raise InvalidRecord(
            f"{len(texts)} thoughts, expected at most {MAX_PATHS} of {MAX_THOUGHT_CHARS} characters"
        )
    return tuple(texts)


def _read_counts(data: bytes) -> tuple[int, int]:
    """Read the number of codes of an item, and of items, behind the head."""
    if len(data) < _HEAD.size + _COUNTS.size + _CRC.size:
        raise InvalidRecord(f"record of {len(data)} bytes, too short for one with items")
    levels, num_items = _COUNTS.unpack_from(data, _HEAD.size)
    if not 0 < num_items <= MAX_ITEMS:
        raise InvalidRecord(f"record of {num_items} items, expected 1 to {MAX_ITEMS}")
    return levels, num_items


def _decode_prefixes(
    entry: struct.Struct, body: bytes, space: SidSpace
) -> tuple[RecordedPrefix, ...]:
    *levels, paths, costs = zip(*entry.iter_unpack(body), strict=True)
    _check_codes(levels, space)
    known = [None if path == _NO_PATH else path for path in paths]
    logprobs = [-cost / _STEPS_PER_NAT for cost in costs]
    return tuple(map(RecordedPrefix, zip(*levels, strict=True), known, logprobs))


def _decode_items(entry: struct.Struct, body: bytes, space: SidSpace) -> tuple[RecordedItem, ...]:
    *levels, steps = zip(*entry.iter_unpack(body), strict=True)
    _check_codes(levels, space)
    if not min(steps):
        raise InvalidRecord("record: an item with a bonus of 0")
    bonuses = [step / _BONUS_STEPS for step in steps]
    return tuple(map(RecordedItem, zip(*levels, strict=True), bonuses))


def _common_depth(all_codes: Sequence[tuple[int, ...]], name: str, most: int) -> int:
    depths = {len(codes) for codes in all_codes}
    if len(all_codes) > most or len(depths) > 1:
        raise InvalidRecord(
            f"{len(all_codes)} {name} of depths {sorted(depths)}, "
            f"expected at most {most} of one depth"
        )
    return depths.pop() if depths else 0


def _prefix_entry(depth: int, is_wide: bool) -> struct.Struct:
    return struct.Struct(f">{depth}{'H' if is_wide else 'B'}BH")


def _item_entry(levels: int, is_wide: bool) -> struct.Struct:
    return struct.Struct(f">{levels}{'H' if is_wide else 'B'}B")


def _quantise(logprob: float) -> int:
    if not math.isfinite(logprob):
        raise InvalidRecord(f"log-probability {logprob}, expected a finite one")
    return min(max(round(-logprob * _STEPS_PER_NAT), 0), 0xFFFF)


def _to_byte(path: int | None) -> int:
    if path is None:
        return _NO_PATH
    if path == _NO_PATH:
        raise InvalidRecord(f"path {path}, expected one below {_NO_PATH}")
    return path


def _to_steps(bonus: float) -> int:
    if not 0 < bonus < math.inf:
        raise InvalidRecord(f"bonus {bonus}, expected a number above 0")
    return min(max(round(bonus * _BONUS_STEPS), 1), 255)


def _check_codes(levels: Sequence[tuple[int, ...]], space: SidSpace) -> None:
    """levels: the codes of all prefixes, by level."""
    for level, (codes, size) in enumerate(zip(levels, space.sizes, strict=False)):
        if max(codes) >= size:
            raise InvalidRecord(
                f"record: code {max(codes)} at level {level} is outside its codebook"
            )


def _seal(payload: bytes) -> bytes:
    return payload + _CRC.pack(google_crc32c.value(payload))


def _unseal(data: bytes) -> bytes:
    payload, (crc,) = data[: -_CRC.size], _CRC.unpack_from(data, len(data) - _CRC.size)
    if crc != google_crc32c.value(payload):
        raise InvalidRecord("record with a wrong checksum")
    return payload
