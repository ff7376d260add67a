"""Cursors of paged lists: a list's beginning and the items that it has shown, signed.

A page continues the pages before it: with the same release and generation, the history as it was,
and without the items already shown. All of that travels in the cursor. So no item comes twice,
also if something fails or new events arrive between two pages. Knows nothing of HTTP.
"""

import hashlib
import hmac
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from typing import NamedTuple

from models.errors import CursorGone, InvalidCursor
from models.store.events import Event
from models.store.manifest import Manifest
from service.users.reader import UserView

LIFETIME_S = 1800
MAX_SHOWN = 1000  # items of one list
MAX_CURSOR_CHARS = 8192

_VERSION = 1
_HEAD = struct.Struct(">BIQQ8s8s8s")
_ROW = struct.Struct(">I")
_TAG_BYTES = 16
_NO_EVENT = bytes(8)


class Cursor(NamedTuple):
    """End of one page of a list, where the next page begins."""

    expires_at: int  # unix seconds
    epoch: int  # of the manifest; 0 without one
    generation: int | None  # of the record; None without one
    query: bytes  # digest, as `Query.digest`
    release: bytes  # digest of the release's label
    newest_event: bytes | None  # digest of its id; None without a history
    shown: tuple[int, ...]  # catalog rows

    def check_release(self, release: bytes) -> None:
        """Raises CursorGone unless the list began with this release."""
        if release != self.release:
            raise CursorGone("another release is served now: begin again without a cursor")


class Cursors:
    """Sign cursors and read them. `secret`: None for a random one that no other process shares."""

    def __init__(self, secret: str | None) -> None:
        self._key = secret.encode() if secret is not None else secrets.token_bytes(32)

    def write(self, cursor: Cursor) -> str:
        head = _HEAD.pack(
            *(_VERSION, cursor.expires_at, cursor.epoch, cursor.generation or 0),
            *(cursor.query, cursor.release, cursor.newest_event or _NO_EVENT),
        )
        signed = head + struct.pack(f">{len(cursor.shown)}I", *cursor.shown)
        return urlsafe_b64encode(signed + self._tag(signed)).rstrip(b"=").decode()

    def read(self, text: str, *, now_s: float, query: bytes) -> Cursor:
        """Verify and decode a cursor. `query`: digest of the query that it came with.

        Raises InvalidCursor for a cursor without our signature or of another query, CursorGone for
        an expired one.
        """
        signed = self._verify(text)
        version, expires_at, epoch, generation, of_query, release, newest = _HEAD.unpack_from(
            signed
        )
        if version != _VERSION or of_query != query:
            raise InvalidCursor("given for another user or other filters than these")
        if now_s > expires_at:
            raise CursorGone(f"this list is over {LIFETIME_S} s old: begin again without a cursor")
        return Cursor(
            *(expires_at, epoch, generation or None, of_query, release),
            newest_event=None if newest == _NO_EVENT else newest,
            shown=tuple(row for (row,) in _ROW.iter_unpack(signed[_HEAD.size :])),
        )

    def _verify(self, text: str) -> bytes:
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError as exc:
            raise InvalidCursor("not a cursor of this service") from exc
        signed, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if len(signed) < _HEAD.size or not hmac.compare_digest(tag, self._tag(signed)):
            raise InvalidCursor("not a cursor of this service")
        return signed

    def _tag(self, signed: bytes) -> bytes:
        return hmac.digest(self._key, signed, "sha256")[:_TAG_BYTES]


def digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).digest()


def begin_cursor(
    view: UserView,
    manifest: Manifest | None,
    *,
    query: bytes,
    release: bytes,
    shown: tuple[int, ...],
    now_s: float,
) -> Cursor:
    """Return the cursor at the end of a first page, which showed the catalog rows `shown`."""
    newest = view.history[-1].event_id if view.history else None
    return Cursor(
        expires_at=int(now_s) + LIFETIME_S,
        epoch=manifest.epoch if manifest is not None else 0,
        generation=view.record.generation if view.record is not None else None,
        query=query,
        release=release,
        newest_event=digest(newest.encode()) if newest is not None else None,
        shown=shown,
    )


def pin_layers(cursor: Cursor, live: tuple[int, ...], manifest: Manifest | None) -> tuple[int, ...]:
    """Return the generation that the list began with, if it has one. Raises CursorGone.

    `live`: the live layers here. If the manifest here is older than the cursor's, the cursor is
    trusted, because the process that wrote it knew a newer manifest.
    """
    if cursor.generation is None:
        return ()
    if cursor.generation in live or manifest is None or manifest.epoch < cursor.epoch:
        return (cursor.generation,)
    raise CursorGone("the generation of this list is no longer live: begin again without a cursor")


def pin_view(view: UserView, cursor: Cursor) -> UserView:
    """Return the view as it was when the list began: without later events or another record."""
    record = view.record
    if record is not None and record.generation != cursor.generation:
        record = None
    return replace(view, history=_pin_history(cursor, view.history), record=record)


def _pin_history(cursor: Cursor, history: tuple[Event, ...]) -> tuple[Event, ...]:
    """Return the events up to the newest one of the cursor; all events if that one is gone."""
    if cursor.newest_event is None:
        return ()
    for at in reversed(range(len(history))):
        if digest(history[at].event_id.encode()) == cursor.newest_event:
            return history[: at + 1]
    return history
