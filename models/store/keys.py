"""What lies under which key, and how it is read: everything that both stores must do alike.

    ta:{user}:p:<generation>     the user's PrefixRecord
    ta:{user}:why:<generation>   the thoughts behind it
    ta:{user}:h                  the user's events, a stream
    ta:manifest                  which generations are live
    ta:{ta:manifest}:past        which were before, newest first; in the manifest's cluster slot
    ta:requests                  users to think about soon, a stream
    ta:erasures                  users to erase, a stream
    ta:erased                    hashes of users who were erased lately, a stream
    ta:imports                   which data were imported whole: digest -> note, a hash

The user id is percent-encoded inside the hash tag, so that one user's keys share a cluster slot
whatever the id holds. Pure: knows no server.
"""

import logging
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote

from models.catalog.sid import SidSpace
from models.errors import (
    ForeignRecord,
    InvalidRecord,
    InvalidUserId,
    ManifestConflict,
    SkewedRecord,
)
from models.store.events import check_user_id
from models.store.manifest import Manifest
from models.store.records import PrefixRecord, decode_thoughts, encode_thoughts, hash_user

logger = logging.getLogger(__name__)

MANIFEST_KEY = "ta:manifest"
PAST_MANIFESTS_KEY = "ta:{ta:manifest}:past"
PAST_LIMIT = 16
IMPORTS_KEY = "ta:imports"
REQUESTS_KEY = "ta:requests"
ERASURES_KEY = "ta:erasures"
ERASED_KEY = "ta:erased"
HISTORY_KEYS = "ta:{*}:h"  # a pattern
LAYER_KEYS = "ta:{*}:[pw]*"  # of records and thoughts; `generation_of` tells them from others

_LAYER_KEY = re.compile(r"ta:\{[^{}:]+\}:(?:p|why):([0-9]{1,20})")

Skipped = Literal["corrupt", "foreign", "skew"]


class UserRow(NamedTuple):
    """What one generation holds of one user. texts: reasoning by path number."""

    user_id: str
    record: PrefixRecord
    texts: tuple[str, ...]


def record_key(user_id: str, generation: int) -> str:
    return f"{_tag(user_id)}:p:{generation}"


def thoughts_key(user_id: str, generation: int) -> str:
    return f"{_tag(user_id)}:why:{generation}"


def history_key(user_id: str) -> str:
    return f"{_tag(user_id)}:h"


def keys_of_user(user_id: str) -> str:
    """A pattern for every key of one user: what a tag holds of an id has no wildcard in it."""
    return f"{_tag(user_id)}:*"


def _tag(user_id: str) -> str:
    check_user_id(user_id)
    return f"ta:{{{quote(user_id, safe='')}}}"


def user_of_history_key(key: bytes) -> str | None:
    """Inverse of `history_key`; None for a key that is not one of ours."""
    try:
        user_id = unquote(key.decode()[len("ta:{") : -len("}:h")], errors="strict")
        return user_id if history_key(user_id).encode() == key else None
    except (ValueError, InvalidUserId):
        return None


def generation_of(key: bytes) -> int | None:
    """Generation that a record or its thoughts belong to; None for any other key."""
    found = _LAYER_KEY.fullmatch(key.decode("ascii", "replace"))
    return int(found.group(1)) if found else None


def jitter_of(user_id: str, jitter_s: int) -> int:
    """0 to `jitter_s` seconds, the same for a user every night."""
    return hash_user(user_id) % (jitter_s + 1)


def newest_record(
    user_id: str, layers: Sequence[int], blobs: Sequence[bytes | None], space: SidSpace
) -> tuple[PrefixRecord | None, tuple[Skipped, ...]]:
    """First sound record among `blobs` (one a layer, newest first), and why others were skipped."""
    skipped: list[Skipped] = []
    for generation, blob in zip(layers, blobs, strict=True):
        if blob is None:
            continue
        try:
            record = PrefixRecord.decode(blob, user_id=user_id, space=space)
            if record.generation != generation:
                raise SkewedRecord(f"record of generation {record.generation} under {generation}")
        except ForeignRecord:
            skipped.append("foreign")
        except SkewedRecord:
            skipped.append("skew")
        except InvalidRecord:
            skipped.append("corrupt")
        else:
            return record, tuple(skipped)
    return None, tuple(skipped)


def read_texts(blob: bytes | None, user_id: str) -> tuple[str, ...]:
    """Thoughts as stored; bytes that are none of this user's are logged and count as none."""
    if blob is None:
        return ()
    try:
        return decode_thoughts(blob, user_id=user_id)
    except InvalidRecord as exc:
        logger.warning("thoughts dropped: %s", exc)
        return ()


def encode_row(generation: int, row: UserRow) -> dict[str, bytes]:
    """Key -> value of one user's part of a layer. Raises InvalidRecord."""
    if row.record.generation != generation:
        raise InvalidRecord(f"record of generation {row.record.generation}, expected {generation}")
    values = {record_key(row.user_id, generation): row.record.encode(row.user_id)}
    if row.texts:
        thoughts = encode_thoughts(row.texts, user_id=row.user_id)
        values[thoughts_key(row.user_id, generation)] = thoughts
    return values


def check_swap(current: bytes | None, expected: Manifest | None, new: Manifest) -> None:
    """The rules of a swap. Raises ManifestConflict; InvalidRecord if `current` is no manifest."""
    held = Manifest.decode(current) if current is not None else None
    if held != expected:
        raise ManifestConflict(
            f"the manifest is at {_epoch(held)}, expected {_epoch(expected)}: "
            "another job was faster"
        )
    if held is not None and new.epoch <= held.epoch:
        raise ManifestConflict(f"epoch {new.epoch} does not follow the held epoch {held.epoch}")


def _epoch(manifest: Manifest | None) -> str:
    return f"epoch {manifest.epoch}" if manifest else "no epoch"
