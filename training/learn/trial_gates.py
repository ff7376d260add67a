"""Gates between a candidate and the services: each one passes, or says in a line why not.

Decisions are made from numbers alone, so that a repeated run decides the same. Only the gate of
latency depends on the machine; it delays a publication and changes no state.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.learn.lazy_adam import is_table
from training.learn.trial import Answers, Paired


@dataclass(frozen=True)
class GateSettings:
    """Limits of a candidate."""

    least_events: int = 100  # tested before a candidate is published ...
    most_slices: int = 3  # ... unless it has waited for as many slices
    events_a_slice: int = 100  # tested, drawn at random
    old_users: int = 200  # of the fixed sample that measures forgetting
    slice_margin: float = 0.01  # recall@10 that the slices may cost, beyond chance
    forget_margin: float = 0.02  # recall@10 that the old sample may cost, beyond chance
    norm_growth: float = 4.0  # of the largest row of a table, of a whole dense weight
    young_share: float = 0.5  # of the items recommended to the old sample, those that are new
    slowdown: float = 3.0  # of a finish


def failed_gates(
    settings: GateSettings,
    *,
    on_slices: Paired,
    on_old: Paired,
    answers: Answers,
    weights: Mapping[str, Tensor],
    anchor: Mapping[str, Tensor],
) -> list[str]:
    """Return a line for each gate that a candidate fails.

    Args:
        on_slices: over slices that the candidate had not learnt when it ranked them.
        on_old: over the fixed old sample.
        answers: to the old sample.
        anchor: weights of the last whole training.
    """
    failed = list(_bad_weights(settings, weights, anchor))
    if on_slices.is_below(settings.slice_margin):
        failed.append(f"recall@10 of new events {on_slices}, expected above 0")
    if on_old.is_below(settings.forget_margin):
        failed.append(f"recall@10 of the old sample {on_old}, expected -{settings.forget_margin}")
    if answers.num_young > settings.young_share * answers.num_found:
        failed.append(
            f"{answers.num_young} of {answers.num_found} items recommended to the old sample are "
            f"new, expected at most {settings.young_share:.0%}"
        )
    return failed


def is_slow(settings: GateSettings, candidate: Answers, old: Answers) -> str | None:
    """Return a line if a finish has become too slow."""
    if candidate.median_ms <= settings.slowdown * old.median_ms:
        return None
    return (
        f"a finish takes {candidate.median_ms:.2f} ms, expected at most {settings.slowdown:g} "
        f"times {old.median_ms:.2f}"
    )


def _bad_weights(
    settings: GateSettings, weights: Mapping[str, Tensor], anchor: Mapping[str, Tensor]
) -> Iterator[str]:
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            yield f"{name} is not finite"
            continue
        most = settings.norm_growth * _size(name, anchor[name])
        if most and (size := _size(name, weight)) > most:
            yield f"{name} has norm {size:.3g}, expected at most {most:.3g}"


def _size(name: str, weight: Tensor) -> float:
    """Return the largest norm of a row of a table, or the norm of a dense weight."""
    if not weight.numel():
        return 0.0
    return float(weight.norm(dim=1).max() if is_table(name) else weight.norm())
