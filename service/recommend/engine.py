"""One loaded release with what finishes on it and what it remembers between requests.

A request holds one engine from start to end, so an answer never mixes two releases. Knows nothing
of users or HTTP.
"""

import gc
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.errors import InvalidRelease
from models.online.finish import Finisher, KeptHistory
from models.online.history_cache import HistoryCache
from models.release.release import Release
from models.release.searchers import FASTEST, load_searcher
from models.store.records import PrefixRecord, RecordedPrefix
from service.recommend.categories import MAX_POPULAR, Categories, by_popularity
from service.recommend.pages import digest

MIB = 1 << 20
_SELF_TEST_ITEMS = 10
_COLLECT_AFTER = (10_000, 50, 100_000)  # allocations, young ones, middling ones


@dataclass(frozen=True, eq=False)
class Engine:
    """`encode` and `candidates` are for the thread that finishes, and for no other.

    history_cache_bytes: of encoded histories. candidates_limit: records whose tree is kept.
    """

    release: Release
    finisher: Finisher
    history_cache_bytes: int = 256 * MIB
    candidates_limit: int = 4096

    @property
    def catalog(self) -> Catalog:
        return self.release.catalog

    @cached_property
    def label(self) -> str:
        """How answers name the release."""
        return f"{self.release.name}@{self.release.version}"

    @cached_property
    def digest(self) -> bytes:
        """Of the release, for cursors."""
        return digest(self.label.encode())

    @cached_property
    def model(self) -> str:
        """How answers name the online model: a digest of its weights, and its precision."""
        weights = self.release.manifest.files["online.safetensors"]
        return f"online@{weights[:12]}/{self.finisher.precision}"

    @cached_property
    def popular_rows(self) -> tuple[int, ...]:
        """The release's fixed list, then the rest of the catalog by popularity."""
        listed = (self.catalog.row(item_id) for item_id in self.release.popular)
        known = [row for row in listed if row is not None]
        rest = by_popularity(self.catalog)[:MAX_POPULAR].tolist()
        return tuple(dict.fromkeys([*known, *rest]))

    @cached_property
    def categories(self) -> Categories:
        return Categories(self.catalog)

    @cached_property
    def global_candidates(self) -> Candidates:
        return self.finisher.candidates(self.release.global_prefixes)

    def encode(self, rows: Sequence[int]) -> KeptHistory:
        """A whole history, by catalog row; kept, or extended by an event, where it can be."""
        return self._histories.state(rows)

    def candidates(self, record: PrefixRecord) -> Candidates:
        """The tree below a record's prefixes. By content: no user gets another's by mistake."""
        kept = self._candidates.get(record.prefixes)
        if kept is None:
            kept = self.finisher.candidates([prefix.codes for prefix in record.prefixes])
            self._candidates[record.prefixes] = kept
            if len(self._candidates) > self.candidates_limit:
                self._candidates.popitem(last=False)
        self._candidates.move_to_end(record.prefixes)
        return kept

    @cached_property
    def _histories(self) -> HistoryCache:
        finisher = self.finisher
        return HistoryCache(finisher, window=finisher.window, max_bytes=self.history_cache_bytes)

    @cached_property
    def _candidates(self) -> OrderedDict[tuple[RecordedPrefix, ...], Candidates]:
        return OrderedDict()


def load_engine(
    release_dir: Path,
    *,
    precision: str = FASTEST,
    history_cache_bytes: int = 256 * MIB,
    candidates_limit: int = 4096,
) -> Engine:
    """Raises InvalidRelease, also for a precision that the release was not found good at."""
    release = Release.load(release_dir)
    finisher = Finisher(load_searcher(release, precision), release.catalog)
    return Engine(release, finisher, history_cache_bytes, candidates_limit)


def self_test(engine: Engine) -> None:
    """Climb the two rungs that need no store. Raises InvalidRelease naming the one that fails.

    It also warms the model, with a history and without, so that no request pays for it.
    """
    if not engine.popular_rows:
        raise InvalidRelease(f"{engine.label}: the catalog holds no item")
    engine.categories.get("")  # builds the index
    for rows in (engine.popular_rows[:_SELF_TEST_ITEMS], ()):
        state = engine.encode(rows)
        engine.finisher.own_prefixes(state, count=1)
        if not engine.finisher.finish(state, engine.global_candidates, k=_SELF_TEST_ITEMS):
            raise InvalidRelease(f"{engine.label}: the global prefixes finish to no item")


def spare_collections() -> None:
    """Once an engine is loaded: let the garbage collector stop requests no more.

    A full collection took 0.2 to 0.3 s of what was loaded, every 10 to 20 s under load, and with
    that out of its sight as much of the copies of users that a process keeps. What requests leave
    behind in cycles is young and is still collected.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
