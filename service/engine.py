"""One loaded release with what finishes on it.

A request holds one engine from start to end, so an answer never mixes two releases. Knows nothing
of users or HTTP.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.catalog import Catalog
from models.errors import InvalidRelease
from models.finish import Finisher
from models.release import Release

_SELF_TEST_ITEMS = 10


@dataclass(frozen=True)
class Engine:
    release: Release
    finisher: Finisher

    @property
    def catalog(self) -> Catalog:
        return self.release.catalog

    @property
    def label(self) -> str:
        """How answers name the release."""
        return f"{self.release.name}@{self.release.version}"

    @cached_property
    def popular_rows(self) -> tuple[int, ...]:
        """The release's fixed list as catalog rows."""
        rows = (self.catalog.row(item_id) for item_id in self.release.popular)
        return tuple(row for row in rows if row is not None)


def load_engine(release_dir: Path) -> Engine:
    """Raises InvalidRelease."""
    release = Release.load(release_dir)
    return Engine(release, Finisher(release.load_runtime(), release.catalog))


def self_test(engine: Engine) -> None:
    """Climb the two rungs that need no store. Raises InvalidRelease naming the one that fails.

    It also warms the model, with a history and without, so that no request pays for it.
    """
    if not engine.popular_rows:
        raise InvalidRelease(f"{engine.label}: the popular list names no item of the catalog")
    finisher = engine.finisher
    prefixes = finisher.candidates(engine.release.global_prefixes)
    for rows in (engine.popular_rows[:_SELF_TEST_ITEMS], ()):
        state = finisher.encode(rows)
        finisher.own_prefixes(state, count=1)
        if not finisher.finish(state, prefixes, k=_SELF_TEST_ITEMS):
            raise InvalidRelease(f"{engine.label}: the global prefixes finish to no item")
