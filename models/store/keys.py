"""Keys and values of the store, as the store in Redis and the one in memory both have them.

    ta:{user}:p:<generation>     PrefixRecord of the user
    ta:{user}:why:<generation>   thoughts behind it
    ta:{user}:h                  events of the user, a stream
    ta:{user}:w                  turns of the user's wish, while it lasts
    ta:manifest                  the manifest, which names the live generations
    ta:{ta:manifest}:past        replaced manifests, newest first; in the cluster slot of the above
    ta:requests                  users to think about soon, a stream
    ta:erasures                  users to erase, a stream
    ta:erased                    hashes of recently erased users, a stream
    ta:imports                   completed imports: digest -> note, a hash
    ta:log                       new events of all users in order of arrival, a stream
    ta:items                     items that were offered or withdrawn, a stream
    ta:workers                   heartbeats of workers, a stream
    ta:gates                     gates of the newest night that went live
    ta:model                     the model pointer: which base and deltas are live

With a namespace every key begins with `ta:NAMESPACE:`, so that a server can hold several data sets.
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
    InvalidSettings,
    InvalidUserId,
    ManifestConflict,
    SkewedRecord,
)
from models.store.events import check_user_id
from models.store.manifest import Manifest
from models.store.model_pointer import ModelPointer
from models.store.namespace import PATTERN
from models.store.records import PrefixRecord, decode_thoughts, encode_thoughts, hash_user

logger = logging.getLogger(__name__)

PAST_LIMIT = 16

Skipped = Literal["corrupt", "foreign", "skew"]


class UserRow(NamedTuple):
    """Record and thoughts of one user in one generation."""

    user_id: str
    record: PrefixRecord
    texts: tuple[str, ...]  # reasoning by path number


class Keys:
    """Names of all keys of one data set in a server.

    Without a namespace a key begins with "ta:", otherwise with "ta:NAMESPACE:". The hash tag of a
    user is the same in every namespace.
    """

    def __init__(self, namespace: str = "") -> None:
        """Raises InvalidSettings for a namespace that a pattern or another key could match."""
        if namespace and not re.fullmatch(PATTERN, namespace):
            raise InvalidSettings(
                f"namespace {namespace[:40]!r}, expected up to 32 characters of a-z 0-9 _ -, "
                "a letter or digit first"
            )
        self.namespace = namespace
        self._start = start = f"ta:{namespace}:" if namespace else "ta:"
        self.manifest = f"{start}manifest"
        self.past_manifests = f"{start}{{{self.manifest}}}:past"
        self.imports = f"{start}imports"
        self.requests = f"{start}requests"
        self.erasures = f"{start}erasures"
        self.erased = f"{start}erased"
        self.log = f"{start}log"
        self.items = f"{start}items"
        self.model = f"{start}model"
        self.workers = f"{start}workers"
        self.gates = f"{start}gates"
        self.histories = f"{start}{{*}}:h"  # a pattern
        self.layers = f"{start}{{*}}:[pw]*"  # a pattern; `generation_of` tells which keys are meant
        self._layer = re.compile(rf"{start}\{{[^{{}}:]+\}}:(?:p|why):([0-9]{{1,20}})")

    def record(self, user_id: str, generation: int) -> str:
        return f"{self._tag(user_id)}:p:{generation}"

    def thoughts(self, user_id: str, generation: int) -> str:
        return f"{self._tag(user_id)}:why:{generation}"

    def history(self, user_id: str) -> str:
        return f"{self._tag(user_id)}:h"

    def wish(self, user_id: str) -> str:
        return f"{self._tag(user_id)}:w"

    def of_user(self, user_id: str) -> str:
        """Return a pattern for all keys of one user; a percent-encoded id has no wildcard in it."""
        return f"{self._tag(user_id)}:*"

    def _tag(self, user_id: str) -> str:
        check_user_id(user_id)
        return f"{self._start}{{{quote(user_id, safe='')}}}"

    def user_of_history(self, key: bytes) -> str | None:
        """Return the user id in a key of `history`; None for any other key."""
        try:
            encoded = key.decode()[len(self._start) + 1 : -len("}:h")]
            user_id = unquote(encoded, errors="strict")
            return user_id if self.history(user_id).encode() == key else None
        except (ValueError, InvalidUserId):
            return None

    def of_users(self, start: str, generation: int | None) -> str:
        """Return a pattern for one key of each user whose id begins with `start`.

        generation: that of the users' records; None for keys of histories.
        """
        end = "h" if generation is None else f"p:{generation}"
        return f"{self._start}{{{quote(start, safe='')}*}}:{end}"

    def user_of(self, key: bytes) -> str | None:
        """Return the user id in any key of a user; None for another key."""
        try:
            encoded = key.decode().removeprefix(f"{self._start}{{").partition("}")[0]
            user_id = unquote(encoded, errors="strict")
            return user_id if key.startswith(f"{self._tag(user_id)}:".encode()) else None
        except (ValueError, InvalidUserId):
            return None

    def generation_of(self, key: bytes) -> int | None:
        """Return the generation in the key of a record or of thoughts; None for any other key."""
        found = self._layer.fullmatch(key.decode("ascii", "replace"))
        return int(found.group(1)) if found else None


DEFAULT_KEYS = Keys()


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


def encode_row(generation: int, row: UserRow, keys: Keys) -> dict[str, bytes]:
    """Return key -> value of one user's part of a layer.

    Raises InvalidRecord for a record of another generation or one that does not encode.
    """
    if row.record.generation != generation:
        raise InvalidRecord(f"record of generation {row.record.generation}, expected {generation}")
    values = {keys.record(row.user_id, generation): row.record.encode(row.user_id)}
    if row.texts:
        thoughts = encode_thoughts(row.texts, user_id=row.user_id)
        values[keys.thoughts(row.user_id, generation)] = thoughts
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
