"""Learns a replay day by day, and publishes the version behind each day."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.catalog.dataset import Dataset
from models.release.publish import write_grown_release
from models.release.release import Release
from training.learn.histories import Histories
from training.learn.learn_settings import LearnSettings
from training.learn.new_items import ItemGrower
from training.learn.online_learner import OnlineLearner
from training.learn.publisher import Publisher
from training.learn.replay_days import DAY_MS, Day, SplitByDay, fed_item
from training.learn.weight_learner import ACCEPTED, Verdict

Report = Callable[[dict[str, Any]], None]


class DayLearner:
    """One replay of a data folder."""

    def __init__(
        self,
        release: Release,
        dataset: Dataset,
        split: SplitByDay,
        settings: LearnSettings,
        grower: ItemGrower,
        publisher: Publisher | None,
        work: Path,
    ) -> None:
        self.learner = OnlineLearner.begin(
            release, Histories(split.learnt, types=settings.types), settings, slice_ms=DAY_MS
        )
        self._release, self._dataset, self._split = release, dataset, split
        self._grower, self._publisher, self._work = grower, publisher, work
        self._needs_base = False

    def run(self, report: Report, *, days: Sequence[Day] | None = None) -> None:
        """Learn the days; report one line a day."""
        if self._publisher is not None:
            self._begin(self._publisher)
        for day in self._split.days if days is None else days:
            report({"day": day.number, **self._run_day(day)})
        weights = self.learner.weights
        while weights.is_waiting:
            verdict = weights.test(self.learner.exam(self.learner.admission.end_slice()))
            report({"day": "end", **verdict.to_json(), **self._publish(verdict)})
        report({"day": "end", **self._publish(Verdict(ACCEPTED))})

    def _begin(self, publisher: Publisher) -> None:
        """Go on from the folder's pointer; what others published on it needs a base of our own."""
        publisher.begin(self._release)
        config = self.learner.weights.accepted.recommender.config
        fits = publisher.fits(self._release, self.learner.catalog, config)
        self._needs_base = not fits or publisher.num_deltas > 0

    def _run_day(self, day: Day) -> dict[str, Any]:
        learner, started = self.learner, time.process_time()
        offered = [(logged, learner.admission.offer(logged)) for logged in day.events]
        events = learner.admission.end_slice()
        verdict = learner.weights.test(learner.exam(events))
        published = self._publish(verdict)
        new = dict.fromkeys(logged.event.item_id for logged in day.events)
        unknown = [item_id for item_id in new if learner.catalog.row(item_id) is None]
        if unknown:
            self._grower.apply(learner, [fed_item(self._dataset, item_id) for item_id in unknown])
            self._needs_base = True
        for logged, before in offered:
            if before is not None:
                learner.count(logged, before)
        losses = learner.weights.learn(learner.lesson(events))
        learner.end_slice(day.events[-1].entry)
        return {
            "events": events.num_seen,
            "held": events.held.describe(),
            "new_items": len(unknown),
            "loss": round(float(np.mean(losses)), 4) if losses else None,
            **verdict.to_json(),
            **published,
            "cpu_s": round(time.process_time() - started, 3),
        }

    def _publish(self, verdict: Verdict) -> dict[str, Any]:
        """Publish the state that the day before left behind."""
        learner, publisher = self.learner, self._publisher
        if publisher is None or not learner.num_slices:
            return {}
        watermark = learner.position
        now_ms = int(watermark.partition("-")[0])
        accepted = learner.weights.accepted
        if self._needs_base:
            draft = self._work / "draft"
            write_grown_release(
                draft,
                publisher.source(self._release),
                learner.catalog,
                accepted.recommender.config,
                accepted.arrays(),
                learner.counts.memory(),
                updates={
                    "parent": self._release.version,
                    "watermark": watermark,
                    "epoch": publisher.next_epoch,
                },
                popularity=learner.popularity,
            )
            publisher.publish_base(draft, watermark, now_ms=now_ms)
            self._needs_base = False
            num_bytes = sum(file.stat().st_size for file in draft.iterdir() if file.is_file())
        else:
            weights = accepted.arrays() if verdict.outcome == ACCEPTED else None
            lists = learner.counts.neighbours_of(learner.counts.touched())
            num_bytes = publisher.publish_delta(weights, lists, watermark, now_ms=now_ms)
        learner.counts.settle()
        return {"published": publisher.name, "watermark": watermark, "bytes": num_bytes}
