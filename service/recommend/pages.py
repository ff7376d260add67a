"""Where a paged list stands: what it was begun with and what it has shown, signed.

A page continues the list of the pages before it: the same release and generation, the history as
it was, and none of the items shown. Those travel in the cursor, so that whatever fails or arrives
between two pages, no item comes twice. Knows nothing of HTTP.
"""

import hashlib
import hmac
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import NamedTuple

from models.errors import CursorGone, InvalidCursor
from models.store.events import Event
from models.store.manifest import Manifest

LIFETIME_S = 1800
MAX_SHOWN = 1000  # items of one list
MAX_CURSOR_CHARS = 8192

_VERSION = 1
_HEAD = struct.Struct(">BIQQ8s8s8s")
_ROW = struct.Struct(">I")
_TAG_BYTES = 16
_NO_EVENT = bytes(8)


class Cursor(NamedTuple):
    """expires_at: unix seconds. asked, release: digests of the request and the release's label.

    epoch: of the manifest, 0 without one. generation: of the record, None without one.
    newest_event: a digest of its id, None without a history. shown: catalog rows.
    """

    expires_at: int
    epoch: int
    generation: int | None
    asked: bytes
    release: bytes
    newest_event: bytes | None
    shown: tuple[int, ...]

    def check_release(self, release: bytes) -> None:
        """Raises CursorGone unless it is the one that the list was begun with."""
        if release != self.release:
            raise CursorGone("another release is served now: begin again without a cursor")


class Cursors:
    """Signs and reads. `secret`: None for a random one that no other process shares."""

    def __init__(self, secret: str | None) -> None:
        self._key = secret.encode() if secret is not None else secrets.token_bytes(32)

    def write(self, cursor: Cursor) -> str:
        head = _HEAD.pack(
            *(_VERSION, cursor.expires_at, cursor.epoch, cursor.generation or 0),
            *(cursor.asked, cursor.release, cursor.newest_event or _NO_EVENT),
        )
        signed = head + struct.pack(f">{len(cursor.shown)}I", *cursor.shown)
        return urlsafe_b64encode(signed + self._tag(signed)).rstrip(b"=").decode()

    def read(self, text: str, *, now_s: float, asked: bytes) -> Cursor:
        """Raises InvalidCursor for one that is not ours or of another request; CursorGone."""
        signed = self._verified(text)
        version, expires_at, epoch, generation, of, release, newest = _HEAD.unpack_from(signed)
        if version != _VERSION or of != asked:
            raise InvalidCursor("given for another user or other filters than these")
        if now_s > expires_at:
            raise CursorGone(f"this list is over {LIFETIME_S} s old: begin again without a cursor")
        return Cursor(
            *(expires_at, epoch, generation or None, of, release),
            newest_event=None if newest == _NO_EVENT else newest,
            shown=tuple(row for (row,) in _ROW.iter_unpack(signed[_HEAD.size :])),
        )

    def _verified(self, text: str) -> bytes:
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError as exc:
            raise InvalidCursor("not one that this service gave") from exc
        signed, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if len(signed) < _HEAD.size or not hmac.compare_digest(tag, self._tag(signed)):
            raise InvalidCursor("not one that this service gave")
        return signed

    def _tag(self, signed: bytes) -> bytes:
        return hmac.digest(self._key, signed, "sha256")[:_TAG_BYTES]


def digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).digest()


def digest_of_newest(history: Sequence[Event]) -> bytes | None:
    return digest(history[-1].event_id.encode()) if history else None


def pinned_layers(
    cursor: Cursor, live: tuple[int, ...], manifest: Manifest | None
) -> tuple[int, ...]:
    """The generation that the list was begun with, if it has one. Raises CursorGone.

    A process that is behind the one which gave the cursor takes that one's word for it.
    """
    if cursor.generation is None:
        return ()
    if cursor.generation in live or manifest is None or manifest.epoch < cursor.epoch:
        return (cursor.generation,)
    raise CursorGone("the generation of this list is no longer live: begin again without a cursor")


def pinned_history(cursor: Cursor, history: tuple[Event, ...]) -> tuple[Event, ...]:
    """The events up to the newest of then; all of them if that one is gone."""
    if cursor.newest_event is None:
        return ()
    for at in reversed(range(len(history))):
        if digest(history[at].event_id.encode()) == cursor.newest_event:
            return history[: at + 1]
    return history
