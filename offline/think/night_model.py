"""The night's model of items: fitted with the plan, read by everybody who thinks.

A night over all users fits it to all histories. A smaller night and a worker take that of the
night before; where there is none, or one of another catalog, records hold no items, and the
prefixes of the thoughts alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.catalog.catalog import Catalog
from models.errors import InvalidRelease, ReleaseMismatch
from models.night.night_file import NIGHT_ITEMS, load_night_items
from models.night.night_items import NightItems
from models.night.night_prefixes import NightPrefixes
from models.reasoner.think import UserHistory, UserThoughts
from models.release.release import Release
from models.release.searchers import load_finisher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Night:
    """All that a night knows beside the thoughts of a user."""

    catalog: Catalog
    items: NightItems
    prefixes: NightPrefixes | None = None  # None: records hold the prefixes of thoughts alone
    num_prefixes: int = 0

    def add(self, user: UserHistory, thoughts: UserThoughts) -> UserThoughts:
        """Add the user's items, and choose prefixes from all sources.

        A wish is known to the thoughts alone, so the prefixes of a user with one stay theirs. So
        does the lack of prefixes of a user without a thought.
        """
        prefixes = thoughts.prefixes
        if self.prefixes is not None and prefixes and user.instruction is None:
            prefixes = self.prefixes.choose(user.rows, prefixes, num=self.num_prefixes)
        items = self.items.find_sids(user.rows, self.catalog)
        return replace(thoughts, prefixes=prefixes, items=items)


class NightModel:
    """The newest model below the folder of all nights, read again when there is a newer one."""

    def __init__(self, out_dir: Path, *, num_prefixes: int) -> None:
        """num_prefixes: of a record; 0 for those of its thoughts alone."""
        self._out_dir, self._num_prefixes = out_dir, num_prefixes
        self._read: tuple[Path, Release] | None = None
        self._found: Night | None = None

    def of(self, release: Release) -> Night | None:
        """Return the model; None, with one warning, without one that fits the release's catalog."""
        file = self._newest()
        if file is None:
            return None
        if self._read is None or self._read[0] != file or self._read[1] is not release:
            self._read, self._found = (file, release), self._load(file, release)
        return self._found

    def _newest(self) -> Path | None:
        found = [
            (int(file.parent.name), file)
            for file in self._out_dir.glob(f"*/{NIGHT_ITEMS}")
            if file.parent.name.isdecimal()
        ]
        return max(found)[1] if found else None

    def _load(self, file: Path, release: Release) -> Night | None:
        try:
            items = load_night_items(file, release.catalog)
            if not self._num_prefixes:
                return Night(release.catalog, items)
            prefixes = NightPrefixes(load_finisher(release), items)
        except (InvalidRelease, ReleaseMismatch) as exc:
            logger.warning("%s: records hold thoughts alone until the next whole night", exc)
            return None
        return Night(release.catalog, items, prefixes, self._num_prefixes)


def add_findings(
    night: Night | None, users: Sequence[UserHistory], found: Sequence[UserThoughts]
) -> list[UserThoughts]:
    """Add what a night finds for each user. Users without thoughts are left out."""
    if night is None:
        return list(found)
    by_id = {user.user_id: user for user in users}
    return [night.add(by_id[thoughts.user_id], thoughts) for thoughts in found]
