"""One step of each stage at the recipe's own sizes, with its peak of memory on a GPU.

A recipe that does not fit would otherwise fail after hours. The steps train in place: throw the
learner away afterwards. Knows stages and GPUs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models.catalog.catalog import Catalog
from models.errors import InvalidSettings
from models.reasoner import prompts
from models.reasoner.beam import beam_search
from models.reasoner.think import render_history
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from training.align import integrate, language_recipe, limit_tokens, warm_up
from training.batching import batch_rows
from training.enhance import enhance
from training.language import precision, train_language
from training.learner import Learner, plain_model
from training.memory_estimate import GB, Memory, ModelShape, recipe_memory
from training.memory_fit import check_fits, stage_lines
from training.rationale_writers import Thinker
from training.recipe import Recipe
from training.tasks import Tasks

ROLLOUTS = "enhance: rollouts"
_QUESTION_ITEMS = 10


@dataclass(frozen=True)
class StageSteps:
    """Steps of a recipe's stages, each with the largest batch or sampling of its stage."""

    learner: Learner
    catalog: Catalog
    tasks: Tasks
    histories: Sequence[Sequence[int]]  # with their targets, as long as the reasoner reads
    recipe: Recipe

    def by_stage(self) -> dict[str, Callable[[], Any]]:
        """Return the steps of the recipe's stages."""
        steps: dict[str, Callable[[], Any]] = {
            "warmup": self._warm_up,
            "integrate": self._integrate,
            "bootstrap": self._bootstrap,
            "select": self._select,
            "activate": self._activate,
            "enhance": self._enhance,
            ROLLOUTS: self._search_beams,
        }
        stages = self.recipe.reasoner.stages
        return {name: step for name, step in steps.items() if name.partition(":")[0] in stages}

    def _warm_up(self) -> Any:
        recipe = self.recipe.warmup
        return warm_up(self.learner, self.tasks, replace(recipe, max_tokens=recipe.batch_tokens))

    def _integrate(self) -> Any:
        recipe = self.recipe.integrate
        one = replace(recipe, tokens=recipe.batch_tokens)
        return integrate(self.learner, self.tasks, one, self.recipe.mixture)

    def _activate(self) -> Any:
        recipe, thinker = self.recipe.activate, Thinker(self.recipe.thoughts)
        rows = list(limit_tokens(self.tasks.rationales(thinker), 2 * recipe.batch_tokens))
        batches = batch_rows(rows, recipe.batch_tokens, np.random.default_rng(0))
        largest = max(batches, key=lambda batch: batch.ids_RS.numel())
        schedule = language_recipe(self.learner, recipe.learning_rate)
        return train_language(self.learner.model, [largest], schedule, stage="activate")

    def _bootstrap(self) -> Any:
        recipe = self.recipe.bootstrap
        asked = [
            prompts.rationale_query(self.catalog, rows[-_QUESTION_ITEMS - 1 : -1], rows[-1])
            for rows in self._longest(recipe.batch_users)
        ]
        return self._think(asked, recipe.tries, recipe.max_tokens)

    def _select(self) -> Any:
        recipe = self.recipe.select
        asked = [
            render_history(self.catalog, rows[:-1]) for rows in self._longest(recipe.batch_users)
        ]
        return self._think(asked, recipe.tries, self.recipe.thoughts.max_tokens)

    def _think(self, asked: Sequence[str], paths: int, max_tokens: int) -> Any:
        reasoner = self._reasoner(max_tokens)
        with precision(self.learner.model):
            return reasoner.think(asked, paths=paths, seeds=range(len(asked))).num_tokens

    def _enhance(self) -> Any:
        recipe = replace(self.recipe.enhance, max_steps=1)
        return enhance(
            self.learner,
            self.catalog,
            self._longest(recipe.prompts),
            recipe,
            self.recipe.thoughts.max_tokens,
            seed=0,
        )

    def _search_beams(self) -> Any:
        """Search the beams of closed thoughts; an untrained model would close none."""
        recipe, hardware = self.recipe.enhance, self.recipe.hardware
        histories = self._longest(min(hardware.rollout_prompts or recipe.prompts, recipe.prompts))
        asked = [render_history(self.catalog, rows[:-1]) for rows in histories]
        most = self.recipe.thoughts.max_tokens
        tokenizer = self.learner.tokenizer
        words = tokenizer.encode("a " * most, add_special_tokens=False)[: most - 1]
        thought = str(tokenizer.decode(words))
        with precision(self.learner.model):
            thoughts = self._reasoner(most).recite(asked, [[thought] * recipe.group] * len(asked))
            depth = self.catalog.space.levels
            return beam_search(
                thoughts.scorer(), self.catalog.trie, depth=depth, width=recipe.beams
            )

    def _longest(self, num: int) -> list[Sequence[int]]:
        """Return the longest histories, repeated if there are fewer."""
        found = sorted(self.histories, key=len, reverse=True)[:num]
        return [found[at % len(found)] for at in range(num)]

    def _reasoner(self, max_tokens: int) -> TransformersReasoner:
        model = plain_model(self.learner.model)
        sampling = Sampling(max_tokens=max_tokens)
        return TransformersReasoner(model, self.learner.tokenizer, self.catalog.space, sampling)


def check_memory(steps: StageSteps, say: Callable[[str], None]) -> dict[str, float]:
    """Print the peak of each stage on a GPU by formula, and on a GPU as measured; return the last.

    Raises InvalidSettings for a recipe that does not fit this GPU; it names settings that do.
    """
    learner, recipe = steps.learner, steps.recipe
    vocabulary, num_rows = len(learner.model.get_input_embeddings().weight), len(learner.row_ids)
    shape = ModelShape.of(plain_model(learner.model).config, vocabulary)
    stages = recipe_memory(shape, recipe, num_rows=num_rows)
    measured: dict[str, float] = {}
    if torch.cuda.is_available():
        card = float(torch.cuda.get_device_properties(learner.model.device).total_memory)
        say(f"{torch.cuda.get_device_name()}: {card / GB:.0f} GB")
        check_fits(shape, recipe, card, num_rows=num_rows)
        measured = _measure(steps, stages)
    for line in stage_lines(stages, measured):
        say(line)
    return measured


def _measure(steps: StageSteps, stages: dict[str, Memory]) -> dict[str, float]:
    """Run one step of each stage and return its peak. Raises InvalidSettings if memory ends."""
    peaks: dict[str, float] = {}
    for stage, step in steps.by_stage().items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            step()
        except torch.OutOfMemoryError as exc:
            by_formula = stages[stage].total / GB
            raise InvalidSettings(
                f"{stage}: the memory of the GPU ended where {by_formula:.0f} GB were estimated, "
                "expected a smaller [hardware] micro_tokens or rollout_prompts, [bootstrap] "
                "batch_users, or checkpointing = true"
            ) from exc
        peaks[stage] = float(torch.cuda.max_memory_allocated())
    return peaks
