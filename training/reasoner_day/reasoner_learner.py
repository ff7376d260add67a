"""One day of a reasoner: learn most of its events, test the rest, learn the rest, export.

    WORK/reasoner_day/early/      learner of the events that are not tested
    WORK/reasoner_day/late/       learner of all events
    WORK/reasoner_day/reasoner/   the reasoner to publish

Every stage is done once; a killed one goes on from its checkpoint. Knows nothing of stores or
releases but the one to go on from.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from models.errors import GatesFailed, InvalidRelease
from models.reasoner.next_items import Judged, NextItem, judge_next_items
from models.reasoner.placement import find_device
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from models.release.release import Release
from training.align import language_recipe
from training.checkpoint import Checkpoint
from training.language import precision, train_language
from training.learner import Learner, load_learner, new_learner, plain_model
from training.reasoner_day.day_gates import Trial, bad_weights, compare, failed_drift
from training.reasoner_day.day_rows import day_batches
from training.reasoner_day.day_settings import DaySettings
from training.reasoner_day.day_work import DayWork
from training.reasoner_day.timeline import Part, Timeline, old_sample
from training.reasoner_recipes import ReasonerRecipe
from training.recipe import recipe_of_reasoner

Report = dict[str, Any]
DAY_TABLE = "reasoner_day"  # of the recipe in a manifest
_MOST_WARMUP_STEPS = 50


class ReasonerDay:
    """The events of one day, and the reasoner that learns them."""

    def __init__(
        self,
        release: Release,
        timeline: Timeline,
        work: DayWork,
        settings: DaySettings,
        *,
        since: str,
        until: str,
    ) -> None:
        """Raises InvalidRelease for a release without a reasoner."""
        if not (release.reasoner_dir / "config.json").is_file():
            raise InvalidRelease(f"{release.reasoner_dir}: no config.json, expected a reasoner")
        self._release, self._timeline = release, timeline
        self._work, self._settings = work, settings
        manifest = release.manifest
        self._recipe = recipe_of_reasoner(release.directory / "manifest.json", manifest.recipe)
        # The first day after a whole training fixes the old sample of all later days.
        self._first: Mapping[str, Any] = manifest.recipe.get(DAY_TABLE, {})
        self._began = str(self._first.get("began", since))
        moments = timeline.moments(after=since)
        num_early = round(len(moments) * (1 - settings.steps.test_share))
        between = moments[num_early - 1] if num_early else since
        self.early = timeline.part(after=since, until=between)
        self.late = timeline.part(after=between, until=until)
        self._old = timeline.part(after=None, until=since)

    @property
    def reasoner_dir(self) -> Path:
        return self._work.folder / "reasoner"

    def run(self) -> Report:
        """Learn the day, and return the facts of it for the manifest.

        Raises GatesFailed, and then `reasoner_dir` must not be published.
        """
        early = self._done("early", lambda: self._learn("early", self.early, None))
        tested = self._passed("test", self._test)
        late = self._done("late", lambda: self._learn("late", self.late, "early"))
        self._done("export", self._export)
        checked = self._passed("check", self._check)
        return {
            "events": self.early.num_events + self.late.num_events,
            "began": self._began,
            "old_logprob": self._first.get("old_logprob", checked["old"].get("prefix_logprob")),
            "new_events": tested,
            "old_sample": checked,
            "tokens": early["tokens"] + late["tokens"],
            "seconds": round(early["seconds"] + late["seconds"], 1),
        }

    def _done(self, stage: str, run: Callable[[], Report]) -> Report:
        """Run a stage, unless it is finished; return its report."""
        report = self._work.report(stage)
        if report is None:
            report = run()
            self._work.finish(stage, report)
        return report

    def _passed(self, stage: str, run: Callable[[], Report]) -> Report:
        report = self._done(stage, run)
        if report["failed"]:
            raise GatesFailed("; ".join(report["failed"]))
        return report

    def _learn(self, stage: str, part: Part, before: str | None) -> Report:
        """Go on from the learner of a stage, or from the release, and learn a part."""
        learner, steps = self._load(before), self._settings.steps
        batches = day_batches(
            self._release.catalog,
            part,
            self._old.histories,
            learner.tokenizer,
            self._recipe,
            steps,
            seed=self._settings.seed,
        )
        schedule = replace(
            language_recipe(learner, steps.learning_rate),
            warmup_steps=min(_MOST_WARMUP_STEPS, max(1, len(batches) // 10)),
        )
        checkpoint = Checkpoint(self._work.folder / f"{stage}.checkpoint", of=stage)
        made: Report = train_language(
            learner.model, batches, schedule, stage=stage, checkpoint=checkpoint
        )
        shutil.rmtree(self._work.folder / stage, ignore_errors=True)
        learner.save(self._work.folder / stage)
        checkpoint.remove()
        return {**made, "batches": len(batches)}

    def _load(self, stage: str | None) -> Learner:
        """Load the learner of a stage; None for the reasoner of the release."""
        recipe, space = self._tuning, self._release.space
        if stage is None:
            return new_learner(recipe, self._recipe.nano, space, [], seed=self._settings.seed)
        return load_learner(recipe, self._work.folder / stage, space)

    @property
    def _tuning(self) -> ReasonerRecipe:
        tuning = self._settings.reasoner
        return ReasonerRecipe(
            base=str(self._release.reasoner_dir),
            tuning=tuning.tuning,
            lora_rank=tuning.lora_rank,
            rows=tuning.rows,
        )

    def _test(self) -> Report:
        """Test the learner of the early part on the late part, which it has not learnt."""
        gates = self._settings.gates
        asked = self.late.next_items(
            gates.most_events, seed=self._settings.seed, history=self._recipe.reasoner.history
        )
        learner = self._load("early")
        if not all(bool(weight.isfinite().all()) for weight in learner.model.parameters()):
            return Trial("", "", {}, {}, ["a weight is not finite"]).to_json()
        sampling = Sampling.of(self._release.reasoner_dir)
        model, space = plain_model(learner.model), self._release.space
        candidate = TransformersReasoner(model, learner.tokenizer, space, sampling)
        before = self._judge(self._before, asked)
        with precision(learner.model):
            after = self._judge(candidate, asked)
        trial = compare(
            before,
            after,
            gates,
            kind="new events",
            margin=gates.new_margin,
        )
        return trial.to_json()

    def _export(self) -> Report:
        shutil.rmtree(self.reasoner_dir, ignore_errors=True)
        self._load("late").export(self.reasoner_dir)
        return {}

    def _check(self) -> Report:
        """Check the exported reasoner, as the night loads it: weights, forgetting, thoughts."""
        gates = self._settings.gates
        old, new = (
            _weights(directory) for directory in (self._release.reasoner_dir, self.reasoner_dir)
        )
        if failed := list(bad_weights(old, new, gates)):
            return Trial("", "", {}, {}, failed).to_json()
        asked = old_sample(
            self._timeline,
            until=self._began,
            count=gates.old_users,
            seed=self._settings.seed,
            history=self._recipe.reasoner.history,
        )
        trial = compare(
            self._judge(self._before, asked),
            self._judge(self._load_reasoner(self.reasoner_dir), asked),
            gates,
            kind="the old sample",
            margin=gates.forget_margin,
        )
        if first := self._first.get("old_logprob"):
            trial.failed.extend(failed_drift(trial.new["prefix_logprob"], first, gates))
        return trial.to_json()

    def _judge(self, reasoner: TransformersReasoner, asked: Sequence[NextItem]) -> list[Judged]:
        gates, seed = self._settings.gates, self._settings.seed
        return judge_next_items(
            reasoner,
            self._release.catalog,
            asked,
            paths=gates.paths,
            width=gates.width,
            seed=seed,
        )

    @cached_property
    def _before(self) -> TransformersReasoner:
        """Return the reasoner of the release."""
        return self._load_reasoner(self._release.reasoner_dir)

    def _load_reasoner(self, directory: Path) -> TransformersReasoner:
        device = str(find_device())
        return TransformersReasoner.load(directory, self._release.space, device=device)


def inputs_of(
    release: Release, timeline: Timeline, settings: DaySettings, *, since: str, until: str
) -> str:
    """Hash everything that decides the weights of a day."""
    parts = [
        reasoner_files(release),
        release.manifest.recipe.get(DAY_TABLE, {}).get("began"),
        timeline.digest(release.catalog),
        settings.digest,
        since,
        until,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def reasoner_files(release: Release) -> dict[str, str]:
    """Return the SHA-256 of each file of a release's reasoner."""
    files = release.manifest.files.items()
    return {name: sha256 for name, sha256 in files if name.startswith("reasoner/")}


def _weights(directory: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        weights |= load_file(file)
    return weights
