"""Learns a log: counts by every event, weights by slices, each slice tested first.

A slice is ranked by the accepted weights and by the candidate, which has learnt the slices before
it. Then the candidate is accepted, refused or tested further, and goes on to learn the slice. All
decisions follow from base release, data folder, settings and log. Knows nothing of files, clocks or
stores.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

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
from training.learn.candidate import Anchor, Candidate, anchor_knowing
from training.learn.guard import unsuspected
from training.learn.histories import Histories
from training.learn.learn_settings import LearnSettings
from training.learn.trial import Paired, Question, answer
from training.learn.trial_gates import failed_gates, is_slow
from training.learn.weight_steps import NewEvents, learn_events

ACCEPTED, REFUSED, WAITING, NOTHING = "accepted", "refused", "waiting", "nothing"


@dataclass
class Verdict:
    """Outcome of the test of a candidate at the end of a slice."""

    outcome: str
    on_slices: str = ""  # paired difference of recall@10
    on_old: str = ""
    recall_on_slices: float | None = None  # of the candidate
    failed: list[str] = field(default_factory=list)  # gates
    slow: str = ""  # the gate of latency, which changes no state

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in ("", [], None)}


@dataclass
class Pool:
    """Answers to the slices that the candidate was tested on, since the last decision."""

    candidate: list[bool] = field(default_factory=list)  # the target was found
    accepted: list[bool] = field(default_factory=list)
    num_slices: int = 0


class OnlineLearner:
    """Counts and weights that go on learning. One thread."""

    def __init__(
        self,
        catalog: Catalog,
        anchor: Anchor,
        counts: LiveCounts,
        admission: Admission,
        settings: LearnSettings,
    ) -> None:
        self.settings = settings
        self.catalog, self.counts, self.admission = catalog, counts, admission
        self.anchor = anchor
        self.accepted = Candidate.new(anchor, settings.rates)
        self.candidate = Candidate.new(anchor, settings.rates)
        self.neighbours: Neighbours = counts.neighbours()  # of the end of the slice before
        self._counted_rows: set[int] = set()  # since the end of the slice before
        self.is_waiting = False  # the candidate differs from the accepted weights
        self.pool = Pool()
        self.num_slices = 0
        self.position = BEGINNING  # the last event of the last learnt slice
        self.popularity = Counter(
            dict(zip(catalog.item_ids, catalog.popularity.tolist(), strict=True))
        )
        self.fed_rows: set[int] = set()  # rows of items that the feed brought
        self._old_sample = admission.histories.sample_old(
            settings.gates.old_users, seed=settings.seed
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
        return cls(release.catalog, anchor, counts, admission, settings)

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
            self._counted_rows.update([*history, row])
            self.popularity[logged.event.item_id] += 1

    def test(self, events: SliceEvents) -> Verdict:
        """Rank a slice before it is learnt, and decide about the candidate if it has waited."""
        if not self.is_waiting:
            return Verdict(NOTHING)
        questions = self._questions(events)
        for version, hits in (
            (self.candidate, self.pool.candidate),
            (self.accepted, self.pool.accepted),
        ):
            answers = answer(version.recommender, self.catalog, self.neighbours, questions)
            hits += answers.is_hit
        self.pool.num_slices += 1
        gates = self.settings.gates
        on_slices = Paired.of(self.pool.candidate, self.pool.accepted)
        is_early = self.pool.num_slices < gates.most_slices
        if on_slices.num < gates.least_events and is_early and not on_slices.is_below(0):
            return Verdict(WAITING, str(on_slices))
        return self._decide(on_slices)

    def learn(self, events: SliceEvents, last: str) -> list[float]:
        """Take the candidate's steps on a counted slice that ends with entry `last`."""
        losses: list[float] = []
        if not events.is_poisoned(self.settings.guard) and (new := self._new_events(events)):
            histories = self.admission.histories
            losses = learn_events(
                self.candidate.recommender,
                self.candidate.optimizer,
                self.catalog,
                new,
                self._draw_old if histories.has_old else None,
                self.settings.steps,
                seed=self._seed(),
            )
            self.is_waiting = True
        if self._counted_rows:
            lists = self.counts.neighbours_of(sorted(self._counted_rows))
            self.neighbours = self.neighbours.patched(*lists)
            self._counted_rows.clear()
        self.position = last
        self.num_slices += 1
        return losses

    def grow(
        self, items: Sequence[FedItem], sids: NDArray[np.integer], similar: SimilarItems
    ) -> None:
        """Add items to catalog, counts and weights; no score changes.

        similar: over the rows of the grown catalog.
        """
        grown = grow(self.catalog, items, sids)
        self._move(grown.catalog, grown.row_of_old, similar)
        self.fed_rows |= set(grown.catalog.rows(item.item_id for item in items))
        known = CatalogTrie(grown.catalog.space, sids).packed[2:]
        rates = self.settings.rates
        self.anchor = anchor_knowing(self.anchor.recommender, known)
        self.accepted = self.accepted.grown(known, self.anchor, rates)
        self.candidate = self.candidate.grown(known, self.anchor, rates)

    def withdraw(self, item_ids: Sequence[str], similar: SimilarItems) -> None:
        """Remove items from catalog and counts; the weights keep their rows."""
        shrunk = withdraw(self.catalog, item_ids)
        self._move(shrunk.catalog, shrunk.row_of_old, similar)

    def _move(self, catalog: Catalog, row_of_old: NDArray[np.int64], similar: SimilarItems) -> None:
        self.catalog = catalog
        self.counts = self.counts.grow(row_of_old, similar)
        self.neighbours = self.counts.neighbours()
        self._counted_rows.clear()
        moved = (int(row_of_old[row]) for row in self.fed_rows)
        self.fed_rows = {row for row in moved if row >= 0}

    def _decide(self, on_slices: Paired) -> Verdict:
        is_young, old = self.fed_rows.__contains__, self._old_questions()
        answers = [
            answer(recommender, self.catalog, self.neighbours, old, is_young=is_young)
            for recommender in (self.candidate.recommender, self.anchor.recommender)
        ]
        on_old = Paired.of(answers[0].is_hit, answers[1].is_hit)
        failed = failed_gates(
            self.settings.gates,
            on_slices=on_slices,
            on_old=on_old,
            answers=answers[0],
            weights=self.candidate.weights,
            anchor=self.anchor.weights,
        )
        recall = float(np.mean(self.pool.candidate)) if self.pool.candidate else None
        slow = is_slow(self.settings.gates, answers[0], answers[1]) or ""
        rates, kept = self.settings.rates, self.accepted if failed else self.candidate
        if failed:
            self.candidate = kept.copy(self.anchor, rates)
        else:
            self.accepted = kept.copy(self.anchor, rates)
        self.is_waiting, self.pool = False, Pool()
        outcome = REFUSED if failed else ACCEPTED
        return Verdict(outcome, str(on_slices), str(on_old), recall, failed, slow)

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

    def _new_events(self, events: SliceEvents) -> list[NewEvents]:
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
                new.append(NewEvents(tuple(rows), tuple(weights)))
        return new

    def _draw_old(self, rng: np.random.Generator) -> Sequence[int]:
        return self.catalog.rows(self.admission.histories.draw_old(rng))

    def _seed(self) -> int:
        return self.settings.seed * 1_000_003 + self.num_slices
