"""Follows the event log: counts every event, learns slice by slice, and publishes.

A slice is tested and learnt in a thread of its own, from copies, while the next one is counted.

    WORK/log/           durable copy of the log; only its events are learnt
    WORK/slices.jsonl   ends of slices
    WORK/items/         batches of the item feed
    WORK/states/        states of the learner

Killed anywhere and started again, it learns the same from the same log.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.durable import make_private
from models.log.event_log import EventLog
from models.release.release import Release
from models.store.contract import BEGINNING, Logged, order_of
from training.learn.catalog_growth import CatalogGrowth
from training.learn.online_learner import OnlineLearner
from training.learn.publication import Publication
from training.learn.publisher import Publisher
from training.learn.saved_state import SavedStates, counted_arrays
from training.learn.slice_lesson import Learnt, begin_lesson
from training.learn.slices import Cut, SliceJournal
from training.learn.weight_learner import ACCEPTED, REFUSED, Verdict

logger = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
IsErased = Callable[[Logged], bool]


@dataclass(frozen=True)
class FollowSettings:
    """Settings of following, which change no weight of a log that is cut already."""

    slice_ms: int = 10_000  # length of a slice
    states_every: int = 6  # slices between two saved states
    most_deltas: int = 1000  # on one base, so that a starting service reads little


class Follower:
    """One learner over one log, one work folder and one live folder."""

    def __init__(
        self,
        learner: OnlineLearner,
        release: Release,
        publisher: Publisher,
        work: Path,
        states: SavedStates,
        growth: CatalogGrowth,
        settings: FollowSettings,
        *,
        is_erased: IsErased,
        report: Report,
    ) -> None:
        self.learner, self.log = learner, EventLog(work / "log")
        self.log_position = self.log.end  # where the store's stream was read to
        self._release, self._publisher, self._work = release, publisher, work
        self._publication = Publication(
            learner, release, publisher, work, most_deltas=settings.most_deltas
        )
        self._journal = SliceJournal(work / "slices.jsonl")
        self._states, self._growth, self._settings = states, growth, settings
        self._is_erased, self._report = is_erased, report
        self._last = BEGINNING  # the last event that was offered
        self._open: int | None = None  # number of the open slice; None without events in it
        self._opened_at = 0.0  # monotonic clock
        self._is_clock_off = False
        self._lesson: tuple[dict[str, Any], Future[Learnt]] | None = None  # and facts of its slice
        self.refusals: list[str] = []  # lines of gates that failed in this process

    def start(self) -> None:
        """Restore the newest state, and learn the log behind it again."""
        make_private(self._work)
        fed = self._states.restore(self.learner)
        self._growth.num_applied = 0 if fed is None else fed
        position = order_of(self.learner.position)
        behind, cuts = [], deque(self._journal.cuts)
        for logged in self.log.read():
            while cuts and order_of(logged.entry) > order_of(cuts[0].last):
                cuts.popleft()
                self.learner.admission.end_slice()
            if order_of(logged.entry) > position:
                behind.append(logged)
            elif not self._is_erased(logged):
                self.learner.admission.offer(logged)
        self.learner.admission.end_slice()
        self._last = self.learner.position
        self._publisher.begin(self._release)
        # Deltas of a learner whose state is lost may hold lists that this one never touches.
        self._publication.needs_base = fed is None and self._publisher.num_deltas > 0
        self.take(behind)
        while (cut := self._recorded()) is not None:
            self._close(cut)
        self._end_lesson()
        self._publication.begin()
        self.publish()

    def take(self, events: Sequence[Logged]) -> None:
        """Offer and count events of the durable log, and close the slices that they end."""
        for logged in events:
            while (cut := self._due_cut(logged)) is not None:
                self._close(cut)
            self._last = logged.entry
            number = logged.arrived_ms // self._settings.slice_ms
            if self._open is None:
                self._open, self._opened_at = number, time.monotonic()
            self._open = max(number, self._open)
            if self._is_erased(logged):
                continue
            before = self.learner.admission.offer(logged)
            if before is not None:
                self.learner.count(logged, before)

    def settle(self, now_ms: int | None) -> None:
        """Close the open slice if its time is over, and apply new batches of the feed.

        now_ms: None closes it at once.
        """
        if self._lesson is not None and self._lesson[1].done():
            self._end_lesson()
        is_over = now_ms is None or self._is_over(now_ms)
        growth = self._growth
        grows = growth.num_due(waits=now_ms is None) > growth.num_applied
        if is_over if self._open is not None else grows:
            self._close(self._new_cut(waits=now_ms is None))

    def _is_over(self, now_ms: int) -> bool:
        """Tell if the time of the open slice is over.

        A clock that jumped, here or in the store, would keep it open for as long as it jumped.
        """
        slice_ms = self._settings.slice_ms
        if self._open is None:
            return False
        if now_ms // slice_ms > self._open:
            self._is_clock_off = False
            return True
        if time.monotonic() < self._opened_at + 2 * slice_ms / 1000:
            return False
        if not self._is_clock_off:
            ahead_s = (self._open * slice_ms - now_ms) / 1000
            logger.warning(
                "arrivals in the log are %.0f s ahead of this clock: slices end by the time that "
                "passes here",
                ahead_s,
            )
        self._is_clock_off = True
        return True

    def wait_out(self) -> bool:
        """Close a slice without events, so that a candidate is decided when the log is quiet.

        Return whether there was something to decide.
        """
        if self._open is not None:
            return False
        self._end_lesson()
        if not self.learner.weights.is_waiting:
            return False
        self._close(self._new_cut())
        return True

    def publish(self) -> dict[str, Any]:
        """Publish all changes, and return facts of it; a failure is made up for later."""
        return self._publication.publish(self._last)

    def _close(self, cut: Cut) -> None:
        """Grow, and begin the lesson of a slice at its end."""
        self._end_lesson()
        started, learner = time.thread_time(), self.learner
        events = learner.admission.end_slice()
        grown = self._growth.apply(learner, cut.fed)
        self._publication.needs_base |= grown.is_changed
        if self._publication.needs_base:
            self.publish()
        exam, lesson = learner.exam(events), learner.lesson(events)
        learner.end_slice(cut.last)
        self._open = None
        is_due = not learner.num_slices % self._settings.states_every
        facts = {
            "slice": learner.num_slices,
            "until": cut.last,
            "events": events.num_seen,
            "held": events.held.describe(),
            "items": grown.num_items,
        }
        begun = begin_lesson(learner.weights, exam, lesson, self._saving() if is_due else None)
        self._lesson = facts | {"cpu_s": time.thread_time() - started}, begun

    def _end_lesson(self) -> None:
        """Wait for the lesson of the last slice, and publish and report what came of it."""
        if self._lesson is None:
            return
        (facts, begun), self._lesson = self._lesson, None
        learnt = begun.result()
        self._note(learnt.verdict)
        failed = self._publication.failed("saved", learnt.failure) if learnt.failure else {}
        published = self.publish()
        self._report(
            {
                **facts,
                "loss": round(float(np.mean(learnt.losses)), 4) if learnt.losses else None,
                **learnt.verdict.to_json(),
                **failed,
                **published,
                "cpu_s": round(facts["cpu_s"] + learnt.cpu_s, 3),
            }
        )

    def save(self) -> None:
        """Save the state, unless a slice is open: its events would be counted again."""
        self._end_lesson()
        if self._open is None:
            try:
                self._saving()()
            except OSError as exc:
                self._publication.failed("saved", exc)

    def _saving(self) -> Callable[[], None]:
        """Copy what counting changes; return what writes the state of now."""
        counted, fed = counted_arrays(self.learner), self._growth.num_applied
        return lambda: self._states.save(self.learner, counted, fed=fed)

    def _note(self, verdict: Verdict) -> None:
        if verdict.outcome == ACCEPTED:
            self._publication.owes_weights = not verdict.slow
        if verdict.outcome == REFUSED or verdict.slow:
            self.refusals.append("; ".join([*verdict.failed, *filter(None, [verdict.slow])]))

    def _due_cut(self, logged: Logged) -> Cut | None:
        """Return the cut before an event, if there is one."""
        if (recorded := self._recorded()) is not None:
            return recorded if order_of(logged.entry) > order_of(recorded.last) else None
        is_later = logged.arrived_ms // self._settings.slice_ms > (self._open or 0)
        return self._new_cut() if self._open is not None and is_later else None

    def _recorded(self) -> Cut | None:
        """Return the next cut of the journal that is not learnt yet."""
        cuts, number = self._journal.cuts, self.learner.num_slices
        return cuts[number] if number < len(cuts) else None

    def _new_cut(self, *, waits: bool = False) -> Cut:
        cut = Cut(self._last, self._growth.num_due(waits=waits))
        self._journal.add(cut)
        return cut
