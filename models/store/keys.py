"""Keys and values of the store, as the store in Redis and the one in memory both have them.

    ta:{user}:p:<generation>     PrefixRecord of the user
    ta:{user}:why:<generation>   thoughts behind it
    ta:{user}:h                  events of the user, a stream
    ta:manifest                  the manifest, which names the live generations
    ta:{ta:manifest}:past        replaced manifests, newest first; in the cluster slot of the above
    ta:requests                  users to think about soon, a stream
    ta:erasures                  users to erase, a stream
    ta:erased                    hashes of recently erased users, a stream
    ta:imports                   completed imports: digest -> note, a hash
    ta:log                       new events of all users in order of arrival, a stream
    ta:items                     items that were offered or withdrawn, a stream
    ta:model                     the model pointer: which base and deltas are live

The user id is percent-encoded inside the hash tag. So one user's keys share a cluster slot for
every id. Pure: knows no server.
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
from models.store.model_pointer import ModelPointer
from models.store.records import PrefixRecord, decode_thoughts, encode_thoughts, hash_user

logger = logging.getLogger(__name__)

MANIFEST_KEY = "ta:manifest"
PAST_MANIFESTS_KEY = "ta:{ta:manifest}:past"
PAST_LIMIT = 16
IMPORTS_KEY = "ta:imports"
REQUESTS_KEY = "ta:requests"
ERASURES_KEY = "ta:erasures"
ERASED_KEY = "ta:erased"
LOG_KEY = "ta:log"
ITEMS_KEY = "ta:items"
MODEL_KEY = "ta:model"
HISTORY_KEYS = "ta:{*}:h"  # a pattern
LAYER_KEYS = "ta:{*}:[pw]*"  # a pattern; of the keys that match, `generation_of` finds the layers'

_LAYER_KEY = re.compile(r"ta:\{[^{}:]+\}:(?:p|why):([0-9]{1,20})")

Skipped = Literal["corrupt", "foreign", "skew"]


class UserRow(NamedTuple):
    """Record and thoughts of one user in one generation."""

    user_id: str
    record: PrefixRecord
    texts: tuple[str, ...]  # reasoning by path number


def record_key(user_id: str, generation: int) -> str:
    return f"{_tag(user_id)}:p:{generation}"


def thoughts_key(user_id: str, generation: int) -> str:
    return f"{_tag(user_id)}:why:{generation}"


def history_key(user_id: str) -> str:
    return f"{_tag(user_id)}:h"


def keys_of_user(user_id: str) -> str:
    """Return a pattern for all keys of one user; a percent-encoded id has no wildcard in it."""
    return f"{_tag(user_id)}:*"


def _tag(user_id: str) -> str:
    check_user_id(user_id)
    return f"ta:{{{quote(user_id, safe='')}}}"


def user_of_history_key(key: bytes) -> str | None:
    """Return the user id in a key of `history_key`; None for any other key."""
    try:
        user_id = unquote(key.decode()[len("ta:{") : -len("}:h")], errors="strict")
        return user_id if history_key(user_id).encode() == key else None
    except (ValueError, InvalidUserId):
        return None


def keys_of_users(start: str, generation: int | None) -> str:
    """Return a pattern for one key of each user whose id begins with `start`.

    generation: that of the users' records; None for keys of histories.
    """
    end = "h" if generation is None else f"p:{generation}"
    return f"ta:{{{quote(start, safe='')}*}}:{end}"


def user_of_key(key: bytes) -> str | None:
    """Return the user id in any key of a user; None for another key."""
    try:
        user_id = unquote(key.decode().removeprefix("ta:{").partition("}")[0], errors="strict")
        return user_id if key.startswith(f"{_tag(user_id)}:".encode()) else None
    except (ValueError, InvalidUserId):
        return None


def generation_of(key: bytes) -> int | None:
    """Return the generation in the key of a record or of thoughts; None for any other key."""
    found = _LAYER_KEY.fullmatch(key.decode("ascii", "replace"))
    return int(found.group(1)) if found else None


def jitter_of(user_id: str, jitter_s: int) -> int:
    """Return 0 to `jitter_s` seconds, the same for a user every night."""
    return hash_user(user_id) % (jitter_s + 1)


def newest_record(
    user_id: str, layers: Sequence[int], blobs: Sequence[bytes | None], space: SidSpace
) -> tuple[PrefixRecord | None, tuple[Skipped, ...]]:
    """Return the first sound record, and the reasons to skip those before it.

    Args:
        layers: generations, newest first.
        blobs: the bytes of each layer's record; None where a layer has none.
    """
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
    """Decode stored thoughts; empty, and logged, for bytes that are no thoughts about this user."""
    if blob is None:
        return ()
    try:
        return decode_thoughts(blob, user_id=user_id)
    except InvalidRecord as exc:
        logger.warning("thoughts dropped: %s", exc)
        return ()


def encode_row(generation: int, row: UserRow) -> dict[str, bytes]:
    """Return key -> value of one user's part of a layer.

    Raises InvalidRecord for a record of another generation or one that does not encode.
    """
    if row.record.generation != generation:
        raise InvalidRecord(f"record of generation {row.record.generation}, expected {generation}")
    values = {record_key(row.user_id, generation): row.record.encode(row.user_id)}
    if row.texts:
        thoughts = encode_thoughts(row.texts, user_id=row.user_id)
        values[thoughts_key(row.user_id, generation)] = thoughts
    return values


def check_swap(
    current: bytes | None,
    expected: Manifest | ModelPointer | None,
    new: Manifest | ModelPointer,
    *,
    name: str = "manifest",
) -> None:
    """Check that `new` may replace the stored manifest or model pointer.

    Raises:
        ManifestConflict: the store does not hold `expected`, or the epoch does not rise.
        InvalidRecord: `current` does not decode.
    """
    held = type(new).decode(current) if current is not None else None
    if held != expected:
        raise ManifestConflict(
            f"the {name} is at {_epoch(held)}, expected {_epoch(expected)}: another job was faster"
        )
    if held is not None and new.epoch <= held.epoch:
        raise ManifestConflict(f"epoch {new.epoch} does not follow the held epoch {held.epoch}")


def _epoch(held: Manifest | ModelPointer | None) -> str:
    return f"epoch {held.epoch}" if held else "no epoch"
