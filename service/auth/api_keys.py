"""API keys: who may call, for what, and how fast.

The file holds digests only. A key is 256 random bits, so one SHA-256 is as good a hash as a slow
one: there is nothing to guess. Knows nothing of HTTP.
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

_MIN_RATE, _MAX_RATE = 1e-4, 1_000_000  # a request in three hours; a second's, or at once
LIVE_KEYS = 2  # of a client: the old one and the one that takes its place
_PREFIX = "ta_"  # so that scanners for leaked secrets can know one
_LOOKUP_BYTES = 16  # of a digest, as dict key; then all bytes are compared in constant time


class Scope(StrEnum):
    RECOMMEND = "recommend"
    EVENTS = "events"
    USERS = "users"  # ask to think about them, erase them
    ADMIN = "admin"


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredKey(_Config):
    """sha256: of the key's text. expires: the first day on which it is not taken, UTC."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expires: date | None = None


class Client(_Config):
    """rate_per_s: None without a limit; burst: requests at once, by default those of a second."""

    client: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    rate_per_s: Annotated[float, Field(ge=_MIN_RATE, le=_MAX_RATE)] | None = None
    burst: Annotated[int, Field(ge=1, le=_MAX_RATE)] | None = None
    keys: Annotated[tuple[StoredKey, ...], Field(min_length=1, max_length=LIVE_KEYS)]


class KeyFile(_Config):
    clients: Annotated[tuple[Client, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        names = [client.client for client in self.clients]
        digests = [key.sha256 for client in self.clients for key in client.keys]
        if len(set(names)) < len(names):
            raise ValueError("two clients have one name")
        if len(set(digests)) < len(digests):
            raise ValueError("one key is there twice")
        return self


class Allowance(NamedTuple):
    """What a token bucket says to one more request. Seconds until one is free, or all are."""

    is_granted: bool
    remaining: int
    reset_s: float


class Bucket:
    """A token bucket: `burst` at once, `rate_per_s` in the long run. Not for several threads."""

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        window_s = math.ceil(burst / rate_per_s)
        self.policy = f'"client";q={burst};w={window_s}'.encode()  # of the header RateLimit-Policy
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
    """A client as a request meets it. A change of the file that leaves its limits leaves its
    bucket; its two keys share it, so that rotating gives nobody twice the rate."""

    client: str
    scopes: frozenset[Scope]
    bucket: Bucket | None


class _Entry(NamedTuple):
    digest: bytes
    expires_at: float  # unix seconds
    caller: Caller


class KeyRing:
    """The keys of a file, read again when it changes. Raises InvalidSettings at first.

    A later file that is bad leaves the keys as they were; `failure` then says why.
    """

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.failure: str | None = None
        self._path = path
        self._monotonic = monotonic
        self._wall = wall
        self._state = _file_state(path)
        self._entries: dict[bytes, _Entry] = {}
        self._replace_entries(read_keys(path))

    def find(self, key: str) -> Caller | None:
        """Who holds this key; None for an unknown or expired one."""
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        entry = self._entries.get(digest[:_LOOKUP_BYTES])
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            return None
        return entry.caller if self._wall() < entry.expires_at else None

    def refresh(self) -> bool:
        """Read the file again if it is another one; whether it is in use now."""
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
    """Raises InvalidSettings with one line that names the file and the place."""
    values = read_config(path, known=tuple(KeyFile.model_fields))
    try:
        return KeyFile.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise InvalidSettings(f"{path}: {where or 'clients'}: {what}") from exc


class NewKey(NamedTuple):
    """key: shown once; sha256: what is stored."""

    key: str
    sha256: str


def new_key() -> NewKey:
    key = _PREFIX + secrets.token_urlsafe(32)
    return NewKey(key, hashlib.sha256(key.encode()).hexdigest())


def _expires_at(key: StoredKey) -> float:
    if key.expires is None:
        return float("inf")
    return datetime(key.expires.year, key.expires.month, key.expires.day, tzinfo=UTC).timestamp()


def _file_state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or, as in a mounted secret, another takes its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size)
