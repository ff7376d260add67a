"""One loaded release with its model, and the caches that it keeps between requests.

A request keeps one engine from start to end, so an answer never mixes two releases. Knows nothing
of users or HTTP.
"""

import gc
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.errors import InvalidRelease
from models.online.finish import Finisher, KeptHistory
from models.online.history_cache import HistoryCache
from models.release.release import Release
from models.release.searchers import FASTEST, load_finisher
from models.store.records import PrefixRecord, RecordedPrefix
from service.recommend.categories import MAX_POPULAR, Categories, by_popularity
from service.recommend.pages import digest

MIB = 1 << 20
_SELF_TEST_ITEMS = 10
_COLLECT_AFTER = (10_000, 50, 100_000)  # thresholds of the generations 0, 1 and 2, see `gc`


class Kept:
    """Caches between requests, shared by engines over one model and one catalog.

    Engines that differ in the counts of their memory take turns with them. Only the model thread may use `histories` and `candidates`.
    """

    def __init__(
        self,
        release: Release,
        *,
        history_cache_bytes: int = 256 * MIB,
        candidates_limit: int = 4096,
    ) -> None:
        """candidates_limit: number of records with a cached candidate tree."""
        self.histories = HistoryCache(max_bytes=history_cache_bytes)
        self._release = release
        self._candidates: OrderedDict[tuple[RecordedPrefix, ...], Candidates] = OrderedDict()
        self._candidates_limit = candidates_limit
        self._global: Candidates | None = None

    @cached_property
    def popular_rows(self) -> tuple[int, ...]:
        """Rows of the release's fixed list, then of the most popular other items."""
        catalog = self._release.catalog
        known = catalog.rows(self._release.popular)
        rest = by_popularity(catalog)[:MAX_POPULAR].tolist()
        return tuple(dict.fromkeys([*known, *rest]))

    @cached_property
    def categories(self) -> Categories:
        return Categories(self._release.catalog)

    def global_candidates(self, finisher: Finisher) -> Candidates:
        if self._global is None:
            self._global = finisher.candidates(self._release.global_prefixes)
        return self._global

    def candidates(self, finisher: Finisher, record: PrefixRecord) -> Candidates:
        """Return the candidate tree below a record's prefixes.

        The prefixes are the cache's key, so no user can get the tree of another by mistake.
        """
        kept = self._candidates.get(record.prefixes)
        if kept is None:
            kept = finisher.candidates([prefix.codes for prefix in record.prefixes])
            self._candidates[record.prefixes] = kept
            if len(self._candidates) > self._candidates_limit:
                self._candidates.popitem(last=False)
        self._candidates.move_to_end(record.prefixes)
        return kept


class Engine:
    """A release, ready to answer. Only the model thread may call `encode` and `candidates`."""

    def __init__(self, release: Release, finisher: Finisher, kept: Kept | None = None) -> None:
        """kept: that of an engine over the same model and catalog; None to begin afresh."""
        self.release = release
        self.finisher = finisher
        self._kept = kept or Kept(release)

    @property
    def catalog(self) -> Catalog:
        return self.release.catalog

    @cached_property
    def label(self) -> str:
        """Name of the release in answers."""
        return f"{self.release.name}@{self.release.version}"

    @cached_property
    def digest(self) -> bytes:
        """Digest of the label, for cursors."""
        return digest(self.label.encode())

    @cached_property
    def model(self) -> str:
        """Name of the online model in answers: a digest of its weights, and its precision."""
        weights = self.release.manifest.files["online.safetensors"]
        return f"online@{weights[:12]}/{self.finisher.precision}"

    @property
    def popular_rows(self) -> tuple[int, ...]:
        """Rows of the release's fixed list, then of the most popular other items."""
        return self._kept.popular_rows

    @property
    def categories(self) -> Categories:
        return self._kept.categories

    @property
    def global_candidates(self) -> Candidates:
        return self._kept.global_candidates(self.finisher)

    def encode(self, rows: Sequence[int]) -> KeptHistory:
        """Encode a whole history, given as catalog rows, from the cache where possible."""
        return self._kept.histories.state(self.finisher, rows)

    def candidates(self, record: PrefixRecord) -> Candidates:
        """Return the candidate tree below a record's prefixes."""
        return self._kept.candidates(self.finisher, record)


class Engines:
    """Engines of the service's own release and of releases that arms of experiments choose.

    Each may be replaced between requests, by one assignment.
    """

    def __init__(self, own: Engine, arms: Mapping[Path, Engine]) -> None:
        self.own = own
        self.arms = arms  # by release directory

    def of(self, release_dir: Path | None) -> Engine:
        """Return the engine of an arm's release, or the own one for None."""
        return self.own if release_dir is None else self.arms[release_dir]


def load_engine(
    release_dir: Path,
    *,
    precision: str = FASTEST,
    history_cache_bytes: int = 256 * MIB,
    candidates_limit: int = 4096,
) -> Engine:
    """Load a release. Raises InvalidRelease, also for a precision that it was not validated at."""
    release = Release.load(release_dir)
    kept = Kept(release, history_cache_bytes=history_cache_bytes, candidates_limit=candidates_limit)
    return Engine(release, load_finisher(release, precision), kept)


def self_test(engine: Engine) -> None:
    """Try the rungs `global` and `popular`, which need no store. Raises InvalidRelease.

    This also warms the model, with a history and without, so that no request pays for it.
    """
    if not engine.popular_rows:
        raise InvalidRelease(f"{engine.label}: the catalog holds no item")
    engine.categories.get("")  # builds the index
    for rows in (engine.popular_rows[:_SELF_TEST_ITEMS], ()):
        state = engine.encode(rows)
        engine.finisher.own_prefixes(state, count=1)
        if not engine.finisher.finish(state, engine.global_candidates, k=_SELF_TEST_ITEMS):
            raise InvalidRelease(f"{engine.label}: no item is found below the global prefixes")


def limit_garbage_collection() -> None:
    """Keep the garbage collector from stopping requests; to be called after an engine is loaded.

    A full collection took 0.2 to 0.3 s, every 10 to 20 s under load, because it walked all that
    was loaded. With the loaded objects frozen it took as long again, for the copies of users that a
    process keeps; so full collections are rare too. Cycles that requests leave behind are young,
    and are still collected.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
