"""Publishes: deltas on a base, new bases where the catalog grew, and the pointer.

Files first, then the pointer of the folder, then that of the store, so that a service never reads a
version that is not there. A step that failed is made up for by the next one. Knows nothing of
learning.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.errors import ManifestConflict
from models.online.memory.live_counts import NeighbourLists
from models.online.shape import RecommenderConfig
from models.release.delta import CountsDelta, Delta, DeltaHeader, between
from models.release.live import LiveFolder, LiveRelease, has_same_online_part, load_live
from models.release.release import Release
from models.store.contract import BEGINNING
from models.store.model_pointer import LiveVersion, ModelPointer
from training.learn.one_learner import one_publication

Weights = Mapping[str, NDArray[Any]]


class Publisher:
    """Writes one live folder; there is one of it at a time."""

    def __init__(
        self, folder: LiveFolder, *, keep_bases: int, guard: Callable[[], None] = lambda: None
    ) -> None:
        """guard: called before each publication; it raises if another learner has taken over."""
        self.folder = folder
        self._keep_bases, self._guard = keep_bases, guard
        self.version: LiveVersion | None = None  # None before the first base
        self._pointed: LiveVersion | None = None  # by this process; behind `version` on a full disk
        self._foreign: LiveVersion | None = None  # of others, and not followed
        self.weights: Weights = {}  # as published
        self._base: Release | None = None

    @property
    def name(self) -> str:
        """Return the published version in short: its base and its number of deltas."""
        return "" if self.version is None else f"{self.version.base}+{self.version.deltas}"

    @property
    def num_deltas(self) -> int:
        """Return the number of deltas on the published base."""
        return 0 if self.version is None else self.version.deltas

    @property
    def next_epoch(self) -> int:
        """Return the epoch of the next pointer. In a base, it makes the base's version unique."""
        held = self.folder.pointer()
        return 1 if held is None else held.epoch + 1

    def begin(self, release: Release) -> None:
        """Go on from the folder's pointer if it is of this learner, otherwise publish a base."""
        pointer = self.folder.pointer()
        if pointer is None:
            self.publish_base(release.directory, BEGINNING, now_ms=0)
        else:
            self._take(load_live(self.folder, pointer.version))
            self._pointed = self.version

    def fits(self, release: Release, catalog: Catalog, config: RecommenderConfig) -> bool:
        """Tell if deltas of a learner fit the published base, under labels that nothing had before.

        Behind a rollback they do not: deltas of the same numbers have served.

        release: that the learner went on from. catalog, config: as they are now.
        """
        assert self._base is not None
        assert self.version is not None
        is_same = self._base.catalog.item_ids == catalog.item_ids
        is_newest = self.folder.num_deltas(self.version.base) == self.version.deltas
        is_alike = is_same and self._base.recommender_config == config
        return self.source(release) is self._base and is_alike and is_newest

    def source(self, release: Release) -> Release:
        """Return the release whose other files a new base takes.

        That is the published base if it goes back to `release`: its reasoner may have learnt on.
        """
        if self._base is None:
            return release
        parent = self._base.manifest.recipe.get("updates", {}).get("parent", self._base.version)
        return self._base if release.version in (parent, self._base.version) else release

    def publish_base(self, directory: Path, watermark: str, *, now_ms: int) -> None:
        """Publish a whole release and point to it.

        Raises ManifestConflict if the pointer has moved; for another reasoner, once.
        """
        with one_publication(self.folder.path):
            if self._follow_pointer():
                raise ManifestConflict(
                    f"{self.folder.path}: another reasoner was published, the base takes it over"
                )
            release = self.folder.publish_base(directory)
            self._take(LiveRelease.of(release))
            self._point(watermark, now_ms)
            self.folder.keep(self._keep_bases)

    def publish_delta(
        self, weights: Weights | None, lists: NeighbourLists | None, watermark: str, *, now_ms: int
    ) -> int:
        """Publish changed weights and changed lists as one delta; return its bytes.

        0 if nothing changed; then the pointer moves only if the last time it could not.
        """
        with one_publication(self.folder.path):
            self._follow_pointer()
            return self._publish_delta(weights, lists, watermark, now_ms)

    def _publish_delta(
        self, weights: Weights | None, lists: NeighbourLists | None, watermark: str, now_ms: int
    ) -> int:
        assert self.version is not None
        changed = between(self.weights, weights) if weights is not None else None
        if changed is not None and not changed.dense and not changed.rows:
            changed = None
        counts = CountsDelta(*lists) if lists is not None and len(lists.row_R) else None
        if changed is None and counts is None:
            if self._pointed != self.version:
                self._point(watermark, now_ms)
            return 0
        base, deltas, parent = self.version
        header = DeltaHeader(
            base=base, number=deltas + 1, parent=parent, watermark=watermark, made_ms=now_ms
        )
        self.version = self.folder.add_delta(Delta(header, counts, changed))
        if weights is not None:
            self.weights = weights
        self._point(watermark, now_ms)
        return self.folder.delta_file(base, deltas + 1).stat().st_size

    def _follow_pointer(self) -> bool:
        """Follow a pointer that moved for another reasoner alone; return whether it did.

        Raises ManifestConflict if another process moved the pointer otherwise, as for a rollback.
        """
        self._guard()
        held = self.folder.pointer()
        own = (self._pointed, self.version)
        if held is None or self._pointed is None or held.version in own:
            return False
        if held.version != self._foreign:  # loading takes seconds
            live = load_live(self.folder, held.version)
            before = (load_live(self.folder, version) for version in own if version)
            if any(has_same_online_part(live, each) for each in before):
                self._take(live)
                self._pointed = live.version
                return True
            self._foreign = held.version
        raise ManifestConflict(
            f"{self.folder.path}: the pointer names {held.base}+{held.deltas}, expected "
            f"{self.name}: nothing is published until the learner starts again"
        )

    def _point(self, watermark: str, now_ms: int) -> None:
        assert self.version is not None
        held = self.folder.pointer()
        self.folder.move(
            ModelPointer(
                epoch=self.next_epoch,
                **self.version._asdict(),
                watermark=watermark,
                written_ms=now_ms,
                canary=held.canary if held is not None else None,
            )
        )
        self._pointed = self.version

    def _take(self, live: LiveRelease) -> None:
        self.version, self.weights, self._base = live.version, live.weights, live.release
