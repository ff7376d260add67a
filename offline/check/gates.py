"""Gates: conditions for a generation to go live. A failed gate leaves the night before live.

Pure: facts and limits in, verdicts out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from models.errors import InvalidSettings
from offline.check.compare import Comparison

_MIN_ARRIVALS = 100  # events; with fewer, a recall means nothing
_MIN_DUE = 20  # users; with fewer, a share means nothing


@dataclass(frozen=True)
class GateLimits:
    """Limits of the gates. C_u is the set of a user's prefixes."""

    coverage: float = 0.5  # minimum of records / users due
    size: float = 0.5  # minimum of mean |C_u| / mean |C_u| of the night before
    size_max: float = 2.0  # maximum of that ratio
    overlap: float = 0.05  # minimum of the mean Jaccard overlap with the night before
    unclosed: float = 0.6  # maximum of paths that never closed / all paths
    dead: float = 0.05  # maximum of dead letters / users due
    recall: float = 0.7  # minimum of prefix recall on fresh events / that of the night before


class Gate(NamedTuple):
    """Verdict of one gate."""

    name: str
    value: float | None  # None: too few data to judge, which counts as passed
    expected: str
    has_passed: bool


class Night(NamedTuple):
    """Counts of users in one night."""

    due: int
    dead: int  # thinking failed on them, also alone


def judge(night: Night, found: Comparison, limits: GateLimits | None = None) -> list[Gate]:
    return list(_judge(night, found, limits or GateLimits()))


def _judge(night: Night, found: Comparison, limits: GateLimits) -> Iterator[Gate]:
    is_judged = night.due >= _MIN_DUE
    coverage = found.num_users / night.due if is_judged else None
    yield _at_least("coverage", coverage, limits.coverage)
    legal = 1 - found.num_illegal / max(found.num_prefixes, 1)
    yield Gate("legality", legal, "1, no exception", found.num_illegal == 0)
    yield _size(found, limits)
    overlap = found.mean_overlap if found.num_compared else None
    yield _at_least("overlap", overlap, limits.overlap)
    num_paths = found.num_texts + found.num_dropped
    yield _at_most("unclosed", found.num_dropped / max(num_paths, 1), limits.unclosed)
    yield _at_most("dead_letters", night.dead / night.due if is_judged else None, limits.dead)
    has_enough = found.num_arrivals >= _MIN_ARRIVALS and found.recalled_before
    recall = found.recalled / found.recalled_before if has_enough else None
    yield _at_least("fresh_recall", recall, limits.recall)


def _size(found: Comparison, limits: GateLimits) -> Gate:
    before = found.before.mean_prefixes
    ratio = found.mean_prefixes / before if before else None
    has_passed = ratio is None or limits.size <= ratio <= limits.size_max
    return Gate("prefixes", ratio, f"{limits.size:g} to {limits.size_max:g}", has_passed)


def _at_least(name: str, value: float | None, limit: float) -> Gate:
    return Gate(name, value, f"at least {limit:g}", value is None or value >= limit)


def _at_most(name: str, value: float | None, limit: float) -> Gate:
    return Gate(name, value, f"at most {limit:g}", value is None or value <= limit)


def describe_failures(gates: Sequence[Gate]) -> str:
    """Describe the failed gates and their values; "" if none failed."""
    return "; ".join(
        f"{gate.name} is {gate.value:.4g}, expected {gate.expected}"
        for gate in gates
        if not gate.has_passed and gate.value is not None
    )


def may_force(gates: Sequence[Gate]) -> bool:
    """Return True unless the legality gate failed: no reason may overrule that one."""
    return all(gate.has_passed for gate in gates if gate.name == "legality")


def read_limits(texts: Sequence[str]) -> GateLimits:
    """Parse `name=value` texts. Raises InvalidSettings."""
    known = {field.name for field in fields(GateLimits)}
    chosen: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            chosen[name] = float(value)
        except ValueError:
            raise InvalidSettings(f"--gate {text}: expected NAME=NUMBER") from None
        if name not in known:
            raise InvalidSettings(f"--gate {text}: expected one of {', '.join(sorted(known))}")
    return GateLimits(**chosen)
