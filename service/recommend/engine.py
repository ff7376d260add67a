"""One loaded release with its model, and the caches that it keeps between requests.

A request keeps one engine from start to end, so an answer never mixes two releases, nor two
versions of a live one. Knows nothing of users or HTTP.
"""

import gc
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.errors import InvalidRelease
from models.night.night_items import FADE
from models.night.recorded_night import bonus_of
from models.online.finish import Finisher, KeptHistory
from models.online.history_cache import HistoryCache
from models.online.memory.pair_file import PairFile
from models.online.memory.tree_memory import NightBonus
from models.release.live import LiveRelease
from models.release.release import NEIGHBOURS, Release
from models.release.searchers import FASTEST, load_finisher
from models.store.model_pointer import ModelCanary
from models.store.records import PrefixRecord
from service.recommend.categories import MAX_POPULAR, Categories, by_popularity
from service.recommend.pages import digest
from service.recommend.wishes import Wishes

Role = Literal["own", "canary", "arm"]  # of an engine in one process
MIB = 1 << 20
_SELF_TEST_ITEMS = 10
_COLLECT_AFTER = (10_000, 50, 100_000)  # thresholds of the generations 0, 1 and 2, see `gc`


class Kept:
    """Caches between requests, shared by engines over one model and one catalog.

    Engines that differ in the counts of their memory take turns with them. Only the model thread
    may use `histories` and `candidates`.
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
        self._candidates: OrderedDict[bytes, Candidates] = OrderedDict()  # by codes_key
        self._candidates_limit = candidates_limit
        self._nights: OrderedDict[bytes, NightBonus] = OrderedDict()  # by items_key
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

    @cached_property
    def pairs(self) -> PairFile | None:
        """Counts and texts behind the memory's weights; None for a release without a memory."""
        if self._release.manifest.memory is None:
            return None
        return PairFile(self._release.directory / NEIGHBOURS)

    @cached_property
    def wishes(self) -> Wishes:
        return Wishes(self._release.catalog)

    def under_new_weights(self) -> "Kept":
        """Return the same without the encoded histories, for other weights over the same items."""
        other = copy(self)
        other.histories = HistoryCache(max_bytes=self.histories.max_bytes)
        return other

    def global_candidates(self, finisher: Finisher) -> Candidates:
        if self._global is None:
            self._global = finisher.candidates(self._release.global_prefixes)
        return self._global

    def candidates(self, finisher: Finisher, record: PrefixRecord) -> Candidates:
        """Return the candidate tree below a record's prefixes.

        The prefixes' codes are the cache's key, so no user can get the tree of another by mistake.
        """
        kept = self._candidates.get(record.codes_key)
        if kept is None:
            kept = finisher.candidates([prefix.codes for prefix in record.prefixes])
            self._candidates[record.codes_key] = kept
            if len(self._candidates) > self._candidates_limit:
                self._candidates.popitem(last=False)
        self._candidates.move_to_end(record.codes_key)
        return kept

    def night_bonus(self, record: PrefixRecord) -> NightBonus:
        """Return the bonus of a record's items, as rows; items outside the catalog are left out."""
        kept = self._nights.get(record.items_key)
        if kept is None:
            kept = bonus_of(self._release.catalog, record.items)
            self._nights[record.items_key] = kept
            if len(self._nights) > self._candidates_limit:
                self._nights.popitem(last=False)
        self._nights.move_to_end(record.items_key)
        return kept


class Engine:
    """A release, ready to answer. Only the model thread may call `encode` and `candidates`."""

    def __init__(
        self,
        release: Release,
        finisher: Finisher,
        kept: Kept | None = None,
        live: LiveRelease | None = None,
    ) -> None:
        """Build an engine over a finisher of a release.

        Args:
            kept: that of an engine over the same model and catalog; None to begin afresh.
            live: the version in a live folder that the finisher serves; None for a release alone.
        """
        self.release = release
        self.finisher = finisher
        self.live = live
        self._kept = kept or Kept(release)

    def with_counts(self, live: LiveRelease) -> "Engine":
        """Return an engine over other counts; it shares the model and all caches with this one."""
        assert live.neighbours is not None
        other = Engine(self.release, self.finisher.remembering(live.neighbours), self._kept, live)
        other.weights_digest = self.weights_digest
        return other

    def with_weights(self, live: LiveRelease, finisher: Finisher) -> "Engine":
        """Return an engine over other weights; it shares all caches but the encoded histories."""
        return Engine(self.release, finisher, self._kept.under_new_weights(), live)

    def shares_model(self, other: "Engine") -> bool:
        """Return True if both serve the same weights and catalog."""
        return self._kept is other._kept

    @property
    def catalog(self) -> Catalog:
        return self.release.catalog

    @cached_property
    def base_label(self) -> str:
        """Name of the release without the deltas on it."""
        return f"{self.release.name}@{self.release.version}"

    @cached_property
    def label(self) -> str:
        """Name of the release in answers."""
        return self.base_label if self.live is None else self.live.label

    @cached_property
    def digest(self) -> bytes:
        """Digest for cursors, which go on over deltas: these leave the catalog as it is."""
        return digest(self.base_label.encode())

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights, 12 hexadecimal digits."""
        if self.live is None:
            return self.release.manifest.files["online.safetensors"][:12]
        found = hashlib.sha256()
        for name in sorted(self.live.weights):
            found.update(name.encode())
            found.update(np.ascontiguousarray(self.live.weights[name]).data)
        return found.hexdigest()[:12]

    @cached_property
    def model(self) -> str:
        """Name of the online model in answers: a digest of its weights, and its precision."""
        return f"online@{self.weights_digest}/{self.finisher.precision}"

    @property
    def popular_rows(self) -> tuple[int, ...]:
        """Rows of the release's fixed list, then of the most popular other items."""
        return self._kept.popular_rows

    @property
    def categories(self) -> Categories:
        return self._kept.categories

    @property
    def pairs(self) -> PairFile | None:
        """Counts and texts behind the memory's weights. Only the model thread may read them."""
        return self._kept.pairs

    @property
    def wishes(self) -> Wishes:
        return self._kept.wishes

    @property
    def global_candidates(self) -> Candidates:
        return self._kept.global_candidates(self.finisher)

    def encode(self, rows: Sequence[int]) -> KeptHistory:
        """Encode a whole history, given as catalog rows, from the cache where possible."""
        return self._kept.histories.state(self.finisher, rows)

    def candidates(self, record: PrefixRecord) -> Candidates:
        """Return the candidate tree below a record's prefixes."""
        return self._kept.candidates(self.finisher, record)

    def night_bonus(self, record: PrefixRecord, *, num_fresh: int) -> NightBonus | None:
        """Return what a record adds to the scores of its items; None if it adds nothing.

        num_fresh: events since the thinking; each leaves FADE of the bonus.
        """
        if not record.items or not self.finisher.takes_nights:
            return None
        return self._kept.night_bonus(record).faded(FADE**num_fresh)


class Chosen(NamedTuple):
    """The engine of one answer."""

    engine: Engine
    role: Role


class CanaryEngine(NamedTuple):
    """Another version for a share of the users."""

    engine: Engine
    canary: ModelCanary  # says who is in the share


class Engines:
    """Engines of the service's own release, of its canary, and of releases of experiments' arms.

    Each may be replaced between requests, by one assignment.
    """

    def __init__(self, own: Engine, arms: Mapping[Path, Engine]) -> None:
        self.own = own
        self.canary: CanaryEngine | None = None
        self.arms = arms  # by release directory

    def of(self, release_dir: Path | None, user_id: str | None) -> Chosen:
        """Return the engine of an arm's release; for None the user's, of the canary or the own."""
        if release_dir is not None:
            return Chosen(self.arms[release_dir], "arm")
        if (found := self.canary) is not None and user_id and found.canary.takes(user_id):
            return Chosen(found.engine, "canary")
        return Chosen(self.own, "own")

    def in_use(self) -> list[tuple[Role, str]]:
        """Return the role and the base release of every engine, each pair once."""
        found: list[tuple[Role, str]] = [("own", self.own.base_label)]
        if self.canary is not None:
            found.append(("canary", self.canary.engine.base_label))
        found += [("arm", engine.base_label) for engine in self.arms.values()]
        return list(dict.fromkeys(found))


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
    engine.wishes.get(())  # and that of the names
    for rows in (engine.popular_rows[:_SELF_TEST_ITEMS], ()):
        state = engine.encode(rows)
        engine.finisher.own_prefixes(state, count=1)
        if not engine.finisher.finish(state, engine.global_candidates, k=_SELF_TEST_ITEMS):
            raise InvalidRelease(f"{engine.label}: no item is found below the global prefixes")


def limit_garbage_collection() -> None:
    """Keep the garbage collector from stopping requests; to be called once, before the first one.

    A full collection took 0.2 to 0.3 s, every 10 to 20 s under load, because it walked all that
    was loaded. With the loaded objects frozen it took as long again, for the copies of users that a
    process keeps; so full collections are rare too. Cycles that requests leave behind are young,
    and are still collected. A later engine needs no call: a full collection while it was swapped in
    stopped requests for 100 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
