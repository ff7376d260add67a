"""API keys with their clients, scopes and rate limits, read from a YAML file.

The file contains only SHA-256 digests. A key has 256 random bits and cannot be guessed, so a slow
hash would add nothing. Knows nothing of HTTP.
"""

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import InvalidSettings
from service.config_file import read_config

_MIN_RATE, _MAX_RATE = 1e-4, 1_000_000  # requests/s; 1e-4 is one in three hours
LIVE_KEYS = 2  # per client: during a rotation, the old key and the new one
_PREFIX = "ta_"  # of every key, so that scanners for leaked secrets recognise one
_LOOKUP_BYTES = 16  # of a digest, as dict key; then all bytes are compared in constant time


class Scope(StrEnum):
    RECOMMEND = "recommend"
    EVENTS = "events"
    USERS = "users"  # request thoughts, erase users
    ITEMS = "items"  # offer and withdraw items
    ADMIN = "admin"


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredKey(_Config):
    """One key in the file."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # digest of the key's text
    expires: date | None = None  # first day (UTC) on which the key is invalid; None: never


class Client(_Config):
    """One client in the file."""

    client: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]  # its name
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    rate_per_s: Annotated[float, Field(ge=_MIN_RATE, le=_MAX_RATE)] | None = None  # None: no limit
    # Requests at once; None: the requests of one second, at least 1.
    burst: Annotated[int, Field(ge=1, le=_MAX_RATE)] | None = None
    keys: Annotated[tuple[StoredKey, ...], Field(min_length=1, max_length=LIVE_KEYS)]


class KeyFile(_Config):
    clients: Annotated[tuple[Client, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        names = [client.client for client in self.clients]
        digests = [key.sha256 for client in self.clients for key in client.keys]
        if len(set(names)) < len(names):
            raise ValueError("two clients have the same name")
        if len(set(digests)) < len(digests):
            raise ValueError("a key occurs twice")
        return self


class Allowance(NamedTuple):
    """The answer of a token bucket to one request."""

    is_granted: bool
    remaining: int  # tokens
    reset_s: float  # seconds until the bucket is full; if not granted, until one token is free


class Bucket:
    """A token bucket: `burst` requests at once, `rate_per_s` on average. Not thread-safe."""

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        window_s = math.ceil(burst / rate_per_s)
        self.policy = f'"client";q={burst};w={window_s}'.encode()  # value of RateLimit-Policy
        self._clock = clock
        self._tokens, self._at = float(burst), clock()

    def take(self) -> Allowance:
        now = self._clock()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate_per_s)
        self._at = now
        if self._tokens < 1:
            return Allowance(False, 0, (1 - self._tokens) / self.rate_per_s)
        self._tokens -= 1
        return Allowance(True, int(self._tokens), (self.burst - self._tokens) / self.rate_per_s)


class Caller(NamedTuple):
    """The client of a valid key."""

    client: str
    scopes: frozenset[Scope]
    # Shared by the client's keys, so that a rotation does not double the rate. Kept when the file
    # changes without changing the client's limits. None: no limit.
    bucket: Bucket | None


class _Entry(NamedTuple):
    digest: bytes
    expires_at: float  # unix seconds
    caller: Caller


class KeyRing:
    """The keys of a file, reloaded when the file changes.

    The constructor raises InvalidSettings for an invalid file. If the file becomes invalid later,
    the ring keeps its keys and sets `failure`.
    """

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.failure: str | None = None  # error of the changed file; None: its keys are in use
        self._path = path
        self._monotonic = monotonic
        self._wall = wall
        self._state = _file_state(path)
        self._entries: dict[bytes, _Entry] = {}
        self._replace_entries(read_keys(path))

    def find(self, key: str) -> Caller | None:
        """Return the client of a key; None if the key is unknown or expired."""
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        entry = self._entries.get(digest[:_LOOKUP_BYTES])
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            return None
        return entry.caller if self._wall() < entry.expires_at else None

    def refresh(self) -> bool:
        """Reload the file if it has changed. Return True if new keys are in use."""
        state = _file_state(self._path)
        if state == self._state:
            return False
        self._state = state
        try:
            self._replace_entries(read_keys(self._path))
        except InvalidSettings as exc:
            self.failure = str(exc)
            return False
        self.failure = None
        return True

    def _replace_entries(self, file: KeyFile) -> None:
        before = {entry.caller.client: entry.caller.bucket for entry in self._entries.values()}
        entries = {}
        for client in file.clients:
            caller = Caller(client.client, client.scopes, self._bucket(client, before))
            for key in client.keys:
                digest = bytes.fromhex(key.sha256)
                entries[digest[:_LOOKUP_BYTES]] = _Entry(digest, _expires_at(key), caller)
        self._entries = entries

    def _bucket(self, client: Client, before: dict[str, Bucket | None]) -> Bucket | None:
        if client.rate_per_s is None:
            return None
        burst = client.burst or max(int(client.rate_per_s), 1)
        bucket = before.get(client.client)
        if bucket and (bucket.rate_per_s, bucket.burst) == (client.rate_per_s, burst):
            return bucket
        return Bucket(client.rate_per_s, burst, self._monotonic)


def read_keys(path: Path) -> KeyFile:
    """Read and validate a key file. Raises InvalidSettings with one line: file, place, error."""
    values = read_config(path, known=tuple(KeyFile.model_fields))
    try:
        return KeyFile.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise InvalidSettings(f"{path}: {where or 'clients'}: {what}") from exc


class NewKey(NamedTuple):
    """A generated key."""

    key: str  # shown to the user once, never stored
    sha256: str  # stored in the file


def new_key() -> NewKey:
    key = _PREFIX + secrets.token_urlsafe(32)
    return NewKey(key, hashlib.sha256(key.encode()).hexdigest())


def _expires_at(key: StoredKey) -> float:
    if key.expires is None:
        return float("inf")
    return datetime(key.expires.year, key.expires.month, key.expires.day, tzinfo=UTC).timestamp()


def _file_state(path: Path) -> tuple[int, int, int] | None:
    """Return modification time, inode and size; None if the file cannot be read.

    They change when the file is written, and when it is replaced, as in a mounted secret.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size)
