"""Versions of a live folder: their names, their order, and the last event that each one counts."""

import json
import re
from functools import cache
from typing import NamedTuple, Self

from models.errors import InvalidRelease
from models.release.live import LiveFolder
from models.release.release import Release
from models.store.contract import BEGINNING, order_of

_LABEL = re.compile(rb'"release":\s*"[^"@]*@([0-9a-f]{12}(?:\+[0-9]+)?)"')

Entry = tuple[int, int]  # id of an entry in the event log, as `order_of` returns it


class Version(NamedTuple):
    """A base and its first `deltas` deltas."""

    base: str
    deltas: int

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read `0123456789ab` or `0123456789ab+17`."""
        base, _, deltas = name.partition("+")
        return cls(base, int(deltas or 0))


class Place(NamedTuple):
    """Place of a version in the order of publication."""

    epoch: int  # of its base
    deltas: int


def find_version(body: bytes) -> Version | None:
    """Find the release label in an answer, without decoding its JSON; None unless there is one."""
    found = _LABEL.findall(body)
    return Version.parse(found[0].decode()) if len(found) == 1 else None


class LiveVersions:
    """Facts about the versions of a live folder, read from its files."""

    def __init__(self, folder: LiveFolder) -> None:
        self._folder = folder
        self._updates = cache(self._read_updates)  # of a base, by its version

    def place(self, version: Version) -> Place:
        return Place(int(self._updates(version.base).get("epoch", 0)), version.deltas)

    def last_counted(self, version: Version) -> Entry:
        """Return the last event of the log that the counts of a version hold."""
        if not version.deltas:
            return order_of(str(self._updates(version.base).get("watermark", BEGINNING)))
        file = self._folder.delta_file(*version)
        try:
            with file.open("rb") as stream:  # safetensors: bytes of the head, then the head
                head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            return order_of(json.loads(head["__metadata__"]["delta"])["watermark"])
        except (OSError, ValueError, KeyError) as exc:
            raise InvalidRelease(f"{file}: not a delta with a watermark ({exc!r})") from exc

    def _read_updates(self, base: str) -> dict[str, str | int]:
        release = Release.load(self._folder.base_dir(base))
        updates: dict[str, str | int] = release.manifest.recipe.get("updates", {})
        return updates
