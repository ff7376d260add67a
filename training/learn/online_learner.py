"""Learns a log: counts by every event, and lessons for the weights by slices.

All of it follows from base release, data folder, settings and log. Knows nothing of files, clocks
or stores.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.catalog.fed_items import FedItem
from models.catalog.growth import grow, withdraw
from models.catalog.trie import CatalogTrie
from models.errors import InvalidRelease
from models.online.memory.live_counts import LiveCounts
from models.online.memory.neighbours import Neighbours
from models.online.memory.similar_items import SimilarItems
from models.online.torch_runtime import load_recommender
from models.release.release import NEIGHBOURS, Release
from models.store.contract import BEGINNING, Logged
from training.learn.admission import Admission, SliceEvents
from training.learn.candidate import Anchor
from training.learn.guard import unsuspected
from training.learn.histories import Histories
from training.learn.learn_settings import LearnSettings
from training.learn.trial import Question
from training.learn.weight_learner import Exam, Lesson, WeightLearner
from training.learn.weight_steps import LearntEvents


class OnlineLearner:
    """Catalog and counts that go on learning, and the exams and lessons of the weights."""

    def __init__(
        self,
        catalog: Catalog,
        weights: WeightLearner,
        counts: LiveCounts,
        admission: Admission,
    ) -> None:
        self.weights, self.settings = weights, weights.settings
        self.catalog, self.counts, self.admission = catalog, counts, admission
        self.neighbours: Neighbours = counts.neighbours()  # of the end of the slice before
        self._changed_rows: set[int] = set()  # rows whose neighbours changed since then
        self.num_slices = 0
        self.position = BEGINNING  # the last event of the last slice
        # Events by item, each with the weight of its type.
        self.popularity: dict[str, float] = defaultdict(
            int, zip(catalog.item_ids, catalog.popularity.tolist(), strict=True)
        )
        self.fed_rows: set[int] = set()  # rows of items that the feed brought
        self._old_sample = admission.histories.sample_old(
            self.settings.gates.old_users, seed=self.settings.seed
        )

    @classmethod
    def begin(
        cls, release: Release, histories: Histories, settings: LearnSettings, *, slice_ms: int
    ) -> "OnlineLearner":
        """Begin at a release, with the histories of a data folder.

        Raises InvalidRelease for a release without a memory.
        """
        memory = release.load_memory()
        if memory is None:
            raise InvalidRelease(
                f"{release.directory}: no {NEIGHBOURS}, expected a memory to go on from"
            )
        anchor = Anchor(load_recommender(release.directory, release.recommender_config))
        admission = Admission(histories, settings.guard, slice_ms)
        counts = LiveCounts.of_memory(memory)
        return cls(release.catalog, WeightLearner(anchor, settings), counts, admission)

    def count(self, logged: Logged, before: Sequence[str]) -> None:
        """Count an admitted event; an item that the catalog does not hold counts nothing.

        before: the items before it, oldest first.
        """
        row = self.catalog.row(logged.event.item_id)
        weight = self.settings.weight_of(logged.event.type)
        if row is not None and weight:
            window = self.counts.settings.window
            history = self.catalog.rows(before[-window:])
            self.counts.add(history, row, weight)
            self._changed_rows.update([*history, row])
            self.popularity[logged.event.item_id] += weight

    def exam(self, events: SliceEvents) -> Exam:
        """Return the exam of a slice; its counts are not used."""
        return Exam(
            self.catalog,
            self.neighbours,
            self._questions(events),
            self._old_questions(),
            frozenset(self.fed_rows),
        )

    def lesson(self, events: SliceEvents) -> Lesson:
        """Return the lesson of a slice; without events if the slice is poisoned."""
        seed = self._seed()
        new = [] if events.is_poisoned(self.settings.guard) else self._new_events(events)
        rng = np.random.default_rng([seed, 1])
        num_old = self.settings.steps.num_old(new) if self.admission.histories.has_old else 0
        drawn = (self.admission.histories.draw_old(rng) for _ in range(num_old))
        old = [found for items in drawn if (found := self._old_events(items)).rows]
        return Lesson(self.catalog, new, old, seed, self._unripe())

    def end_slice(self, last: str) -> None:
        """End a slice at log entry `last`: the next exam has its counts."""
        if self._changed_rows:
            lists = self.counts.neighbours_of(sorted(self._changed_rows))
            self.neighbours = self.neighbours.patched(*lists)
        self._changed_rows.clear()
        self.position = last
        self.num_slices += 1

    def grow(
        self, items: Sequence[FedItem], sids: NDArray[np.integer], similar: SimilarItems
    ) -> None:
        """Add items to catalog, counts and weights; no score changes.

        similar: over the rows of the grown catalog.
        """
        grown = grow(self.catalog, items, sids)
        self._move(grown.catalog, grown.row_of_old, similar)
        self.fed_rows |= set(grown.catalog.rows(item.item_id for item in items))
        self.weights.grow(CatalogTrie(grown.catalog.space, sids).packed[2:])

    def withdraw(self, item_ids: Sequence[str], similar: SimilarItems) -> None:
        """Remove items from catalog and counts; the weights keep their rows."""
        shrunk = withdraw(self.catalog, item_ids)
        self._move(shrunk.catalog, shrunk.row_of_old, similar)
        for item_id in item_ids:
            self.popularity.pop(item_id, None)

    def _move(self, catalog: Catalog, row_of_old: NDArray[np.int64], similar: SimilarItems) -> None:
        """Move everything to the rows of another catalog."""
        self.catalog = catalog
        self.counts = self.counts.grow(row_of_old, similar)
        bereft = self.neighbours.rows_beside(np.flatnonzero(row_of_old < 0))
        self.neighbours = self.neighbours.moved(row_of_old, len(catalog))
        new = np.setdiff1d(np.arange(len(catalog)), row_of_old)
        is_near = np.isin(similar.row_NS, new) & (similar.cosine_NS > 0)
        self._changed_rows = {
            *_moved([*self._changed_rows, *bereft.tolist()], row_of_old),
            *new.tolist(),
            *np.flatnonzero(is_near.any(axis=1)).tolist(),
        }
        self.fed_rows = set(_moved(self.fed_rows, row_of_old))

    def _questions(self, events: SliceEvents) -> list[Question]:
        """Return the questions of a slice: items that are new for users with a history."""
        found = []
        for logged, is_sound in zip(
            events.events, unsuspected(events.events, events.held), strict=True
        ):
            history = self.catalog.rows(events.before[logged.user_id])
            row = self.catalog.row(logged.event.item_id)
            if is_sound and history and row is not None and row not in history:
                found.append(Question(history, row))
        most = self.settings.gates.events_a_slice
        if len(found) <= most:
            return found
        chosen = np.random.default_rng(self._seed()).permutation(len(found))[:most]
        return [found[at] for at in sorted(chosen.tolist())]

    def _old_questions(self) -> list[Question]:
        """Return the last items of the fixed old sample."""
        histories = (self.catalog.rows(items) for items in self._old_sample)
        return [Question(rows[:-1], rows[-1]) for rows in histories if len(rows) > 1]

    def _new_events(self, events: SliceEvents) -> list[LearntEvents]:
        """Return the events that carry loss, behind their histories; suspects carry none."""
        new = []
        for user_id, of_user in events.of_user.items():
            rows = list(self.catalog.rows(events.before[user_id]))
            weights = []
            for logged, is_sound in zip(of_user, unsuspected(of_user, events.held), strict=True):
                if (row := self.catalog.row(logged.event.item_id)) is not None:
                    rows.append(row)
                    weights.append(self.settings.weight_of(logged.event.type) * is_sound)
            if any(weights):
                new.append(LearntEvents(tuple(rows), tuple(weights)))
        return new

    def _old_events(self, items: Sequence[tuple[str, float]]) -> LearntEvents:
        """Return the history of an old user, of which every event carries loss."""
        found = [(self.catalog.row(item_id), weight) for item_id, weight in items]
        known = [(row, weight) for row, weight in found if row is not None]
        return LearntEvents(tuple(row for row, _ in known), tuple(weight for _, weight in known))

    def _unripe(self) -> list[NDArray[np.int64]]:
        """Return the packed prefixes, by depth from two codes on, with new items alone below them.

        New are items of the feed with too few events for a row of their own.
        """
        least, item_ids = self.settings.steps.own_after, self.catalog.item_ids
        is_new_N = np.zeros(len(item_ids), dtype=bool)
        is_new_N[[row for row in self.fed_rows if self.popularity[item_ids[row]] < least]] = True
        num_new = np.append(0, is_new_N.cumsum())
        found = []
        for depth in range(2, self.catalog.space.levels + 1):
            packed_N = self.catalog.space.pack(self.catalog.sids[:, :depth])  # ascending
            packed = np.unique(packed_N[is_new_N])
            first, end = (np.searchsorted(packed_N, packed, side) for side in ("left", "right"))
            found.append(packed[num_new[end] - num_new[first] == end - first])
        return found

    def _seed(self) -> int:
        return self.settings.seed * 1_000_003 + self.num_slices


def _moved(rows: Iterable[int], row_of_old: NDArray[np.int64]) -> Iterator[int]:
    """Yield the new rows of those that stay."""
    for row in rows:
        if (new := int(row_of_old[row])) >= 0:
            yield new
