"""Versions that a learner left behind in a live folder, by day.

A base names the last event that it has learnt in its manifest, a delta in its header. Knows days;
knows nothing of arms.
"""

from typing import NamedTuple

from models.errors import InvalidRelease
from models.release.delta import read_delta
from models.release.live import LiveFolder, LiveRelease, advance, load_live
from models.release.release import Release
from models.store.model_pointer import LiveVersion

DAY_MS = 24 * 3600 * 1000
_BEGINNING = "0-0"


class _Left(NamedTuple):
    """A version, and the day of the last event that it has learnt."""

    day: int  # days since 1970
    version: LiveVersion


class LivePast:
    """The versions of a live folder, in the order in which they were learnt."""

    def __init__(self, folder: LiveFolder) -> None:
        """Raises InvalidRelease for a folder without a version."""
        self._folder = folder
        self._left = sorted(_versions(folder), key=lambda left: left.day)
        if not self._left:
            raise InvalidRelease(f"{folder.path}: no base, expected a live folder")

    def walk(self) -> "PastWalk":
        """Return a walk through the days, to be asked for ever later ones."""
        return PastWalk(self._folder, self._left)


class PastWalk:
    """Loads the version of one day after the other."""

    def __init__(self, folder: LiveFolder, left: list[_Left]) -> None:
        self._folder, self._left = folder, left
        self._live: LiveRelease | None = None

    def left_by(self, day: int) -> LiveRelease:
        """Return the version that was live at the end of `day`."""
        version = [left.version for left in self._left if left.day <= day][-1]
        if self._live is None:
            self._live = load_live(self._folder, version)
        elif version != self._live.version:
            self._live = advance(self._live, self._folder, version).live
        return self._live


def _versions(folder: LiveFolder) -> list[_Left]:
    """Return the versions of all bases; of one day the last one comes last."""
    found: list[_Left] = []
    for base in reversed(folder.bases()):
        release = Release.load(folder.base_dir(base))
        learnt = release.manifest.recipe.get("updates", {}).get("watermark", _BEGINNING)
        found.append(_Left(_day_of(learnt), folder.version(base, 0)))
        parent = ""
        for number in range(1, folder.num_deltas(base) + 1):
            file = folder.delta_file(base, number)
            step = read_delta(file, base=base, number=number, parent=parent)
            parent = step.sha256
            day = _day_of(step.delta.header.watermark)
            found.append(_Left(day, LiveVersion(base, number, parent)))
    return found


def _day_of(entry: str) -> int:
    return int(entry.partition("-")[0]) // DAY_MS
