"""Gates between a reasoner that has learnt a day and the night, from numbers alone.

Models are compared in pairs, on the same questions with the same noise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.reasoner.next_items import Judged
from training.learn.trial import Paired
from training.reasoner_day.day_settings import DayGates


@dataclass(frozen=True)
class Trial:
    """Answers of two reasoners to the same questions, in short."""

    logprob: str  # paired difference of log P(prefix), new minus old
    found: str  # paired difference of the share of prefixes in C_u
    old: dict[str, float]  # means of the reasoner before
    new: dict[str, float]
    failed: list[str] = field(default_factory=list)  # a line for each gate

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def means(judged: Sequence[Judged], paths: int) -> dict[str, float]:
    """Return the means of answers; without any, none."""
    if not judged:
        return {}
    columns = {name: np.array([getattr(one, name) for one in judged]) for name in Judged._fields}
    return {
        "prefix_logprob": round(float(columns["prefix_logprob"].mean()), 4),
        "item_logprob": round(float(columns["item_logprob"].mean()), 4),
        "prefix_recall": round(float(columns["is_found"].mean()), 4),
        "prefixes": round(float(columns["num_prefixes"].mean()), 2),
        "closed": round(float(columns["num_closed"].mean()) / paths, 4),
        "formed": round(
            float(columns["num_formed"].sum() / max(columns["num_closed"].sum(), 1)), 4
        ),
    }


def compare(
    old: Sequence[Judged], new: Sequence[Judged], gates: DayGates, *, kind: str, margin: float
) -> Trial:
    """Compare two reasoners, and name the gates that the new one fails.

    Args:
        kind: of the questions, for the lines of failed gates.
        margin: of log P that the new reasoner may cost.
    """
    logprob = Paired.of([one.prefix_logprob for one in new], [one.prefix_logprob for one in old])
    found = Paired.of([one.is_found for one in new], [one.is_found for one in old])
    trial = Trial(str(logprob), str(found), means(old, gates.paths), means(new, gates.paths))
    if logprob.is_below(margin):
        trial.failed.append(f"log P(prefix) of {kind} {logprob}, expected above -{margin:g}")
    if found.is_below(gates.found_margin):
        trial.failed.append(
            f"share of prefixes found for {kind} {found}, expected above -{gates.found_margin:g}"
        )
    for name, most in (("closed", gates.closed_margin), ("formed", gates.formed_margin)):
        if trial.new and trial.new[name] < trial.old[name] - most:
            trial.failed.append(
                f"share of {name} thoughts about {kind} {trial.new[name]:.2f}, expected at least "
                f"{trial.old[name] - most:.2f}"
            )
    return trial


def failed_drift(now: float, first: float, gates: DayGates) -> Iterator[str]:
    """Yield a line if the old sample has lost too much since the first day."""
    if now < first - gates.drift_margin:
        yield (
            f"log P(prefix) of the old sample {now:.3f}, expected at least "
            f"{first - gates.drift_margin:.3f}: {first:.3f} before the first day"
        )


def bad_weights(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], gates: DayGates
) -> Iterator[str]:
    """Yield a line for each weight that is not finite or has grown too much."""
    for name, weight in new.items():
        if not torch.isfinite(weight).all():
            yield f"{name} is not finite"
            continue
        most = gates.norm_growth * float(old[name].float().norm())
        if most and (size := float(weight.float().norm())) > most:
            yield f"{name} has norm {size:.3g}, expected at most {most:.3g}"
