"""Time left of a whole run, from the steps that this machine has measured.

Each stage has an expected amount of work, in tokens or epochs. A stage that has run a step has a
rate. A stage without one takes the rate of the same stage in the first round, or the mean rate of
the stages that were measured beside it. Before any was measured there is no estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.recipe import Recipe
from training.recipe_choice import Size

# Tokens, and work of a sampled token or thought as trained tokens. Both were fitted to the bundled
# run; only their ratios matter.
_SEQUENCE, _INTERLEAVED, _PERSONA = 5, 11, 10  # tokens of an item
_CAPTION, _RATIONALE = 35, 72  # tokens of an item of the catalog, of a user
_SAMPLED_RATIONALE, _THOUGHT = 190, 240


@dataclass(frozen=True)
class Progress:
    """Work of one stage in one round."""

    work: float  # in all, in the unit of its chain
    done: float = 0.0  # share, 0 to 1
    seconds: float = 0.0  # measured
    measured: float = 0.0  # share that took them; less than `done` after a resume

    @property
    def rate(self) -> float | None:
        """Return seconds a unit of work; None before the first step."""
        work = self.work * self.measured
        return self.seconds / work if work > 0 and self.seconds > 0 else None


def seconds_left(rounds: Sequence[Sequence[Progress]]) -> list[float] | None:
    """Return the time left of one chain of stages in each round; None before the first step.

    Args:
        rounds: the same stages in the same order in every round.
    """
    every = [stage for of_round in rounds for stage in of_round]
    seconds = sum(stage.seconds for stage in every)
    work = sum(stage.work * stage.measured for stage in every)
    if all(stage.done >= 1 for stage in every):
        return [0.0] * len(rounds)
    if not seconds or not work:
        return None
    mean = seconds / work
    left = []
    for of_round in rounds:
        rates = [
            stage.rate or before.rate or mean
            for stage, before in zip(of_round, rounds[0], strict=True)
        ]
        of_stages = zip(of_round, rates, strict=True)
        left.append(sum(stage.work * (1 - stage.done) * rate for stage, rate in of_stages))
    return left


def expected_work(recipe: Recipe, size: Size) -> dict[str, float]:
    """Return the expected work of each stage of the reasoner's chain, in trained tokens."""
    align, enhance = recipe.align, recipe.enhance
    sequences = size.events * _SEQUENCE
    num_thoughts = enhance.prompts * enhance.group
    steps = min(enhance.max_steps, enhance.epochs * max(size.users // enhance.prompts, 1))
    rationales = min(size.users, recipe.activate.max_rows) * _RATIONALE
    found = {
        "align": align.sequence_epochs * (1 - align.item_dropout) * sequences
        + align.interleaved_epochs * size.events * _INTERLEAVED
        + align.caption_epochs * size.items * _CAPTION,
        "warmup": min(recipe.warmup.max_tokens, recipe.warmup.epochs * size.events * _PERSONA),
        "integrate": recipe.integrate.tokens,
        "bootstrap": min(size.users, recipe.bootstrap.users)
        * recipe.bootstrap.tries
        * _SAMPLED_RATIONALE,
        "activate": recipe.activate.rationale_epochs * rationales
        + recipe.activate.sequence_epochs * sequences,
        "enhance": steps * num_thoughts * _THOUGHT,
    }
    return {stage: found[stage] for stage in recipe.reasoner.stages if stage in found}


def describe_seconds(seconds: float) -> str:
    """Write a time as a person would say it: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(round(minutes, -1), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
