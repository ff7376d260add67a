"""Data that every stage of the reasoner learns from, and its measure on validation users."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from models.catalog.catalog import Catalog
from models.intake.users_table import Attributes
from models.night.evidence import Evidence
from models.online.memory.pair_counts import PairCounts
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from models.release.release import Learns
from training.checkpoint import Checkpoint
from training.language import precision
from training.learner import Learner, plain_model
from training.probe import probe, wish_shift
from training.processes import processes
from training.run import Run
from training.split import sample_users, training_histories, unseen_histories
from training.tasks import Tasks

_NUM_PROBED_USERS = 200


@dataclass(frozen=True, eq=False)
class Material:
    """Data that every stage learns from."""

    run: Run
    catalog: Catalog
    histories: Sequence[Sequence[int]]  # catalog rows of training items
    firsts: Sequence[int] | None = None  # of each history the first event to learn; None: all

    @cached_property
    def evidence(self) -> Evidence | None:
        """Return what others bought, by the training items of all users, if the recipe cites it."""
        if not self.run.recipe.thoughts.evidence:
            return None
        known, settings = training_histories(self.catalog, self.run.split), self.run.recipe.memory
        counts = PairCounts.of_histories(known, len(self.catalog), settings, self.run.split.weights)
        return Evidence(self.catalog, counts, settings)

    @cached_property
    def attributes(self) -> list[Attributes]:
        """Return the attributes of the user of each history."""
        users = self.run.users
        return [users.get(user.user_id, {}) for user in self.run.split.users if user.train]

    def tasks(self, learner: Learner, items: Sequence[int] | None = None) -> Tasks:
        """Return the tasks; `items` are the catalog rows to describe, by default all."""
        return Tasks(
            self.catalog,
            self.histories,
            learner.tokenizer,
            self.run.recipe.seed,
            firsts=self.firsts,
            items=items,
            most=self.run.recipe.reasoner.history,
            attributes=self.attributes if self.run.users else None,
            evidence=self.evidence,
            evidence_share=self.run.recipe.thoughts.evidence,
        )

    def checkpoint(self, stage: str) -> Checkpoint:
        return Checkpoint(self.run.work / f"{stage}.checkpoint", self.run.inputs(stage))

    def rationales(self, stage: str) -> Path:
        """Return the file for the rationales of bootstrapping, or for selected thoughts."""
        return self.run.work / f"rationales_{self.run.key(stage)}.jsonl"

    def reasoner(self, learner: Learner) -> TransformersReasoner:
        """Build an engine with the learner's weights and the recipe's length of thoughts."""
        sampling = Sampling(max_tokens=self.run.recipe.thoughts.max_tokens)
        model = plain_model(learner.model)
        return TransformersReasoner(model, learner.tokenizer, self.catalog.space, sampling)

    def probe(self, learner: Learner) -> dict[str, Any]:
        """Measure a learner on validation users; the recipe's seed determines the users.

        The second round has no validation users, and nothing is measured. Of several processes, the
        first one measures.
        """
        recipe = self.run.recipe
        if self.run.learns is not Learns.HELD_OUT or not processes().is_first:
            return {}
        users = [
            replace(user, train=user.train[-recipe.reasoner.history :])
            for user in sample_users(self.run.split, _NUM_PROBED_USERS, recipe.seed)
        ]
        reasoner = self.reasoner(learner)
        with precision(learner.model):
            found = probe(reasoner, self.catalog, users, seed=recipe.seed, evidence=self.evidence)
            seen: dict[str, Any] = found._asdict()
            if recipe.thoughts.wish_share:
                shift = wish_shift(reasoner, self.catalog, users, seed=recipe.seed)
                seen["wish_shift"] = shift._asdict()
        return seen


def gather(run: Run) -> Material:
    """Load the material; the quantized catalog must be in the work folder."""
    catalog, share = run.catalog(), run.recipe.reasoner.unseen
    if share:
        histories = unseen_histories(catalog, run.split, share, run.recipe.seed)
        return Material(run, catalog, histories, [len(rows) - 1 for rows in histories])
    return Material(run, catalog, training_histories(catalog, run.split))
