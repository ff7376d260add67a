"""Gates of a reasoner's day, from numbers alone."""

import pytest
import torch

from models.reasoner.next_items import Judged
from training.reasoner_day.day_gates import bad_weights, compare, failed_drift
from training.reasoner_day.day_settings import DayGates

GATES = DayGates(paths=2)
OLD = [Judged(-5.0 - at % 3, -8.0, at % 2 == 0, 10, 2, 2) for at in range(100)]


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ([one._replace(prefix_logprob=one.prefix_logprob + 1) for one in OLD], ""),
        ([one._replace(prefix_logprob=one.prefix_logprob - 0.01) for one in OLD], ""),
        ([one._replace(prefix_logprob=one.prefix_logprob - 0.1) for one in OLD], "log P(prefix)"),
        ([one._replace(is_found=False) for one in OLD], "share of prefixes found"),
        ([one._replace(num_closed=1, num_formed=1) for one in OLD], "share of closed thoughts"),
        ([one._replace(num_formed=1) for one in OLD], "share of formed thoughts"),
    ],
)
def test_a_reasoner_fails_by_what_it_lost(new: list[Judged], said: str) -> None:
    failed = compare(OLD, new, GATES, kind="new events", margin=0.05).failed
    assert len(failed) == bool(said)
    assert all(said in line and "new events" in line for line in failed)


def test_small_losses_of_every_day_add_up() -> None:
    assert list(failed_drift(-6.2, -6.0, GATES)) == []
    (line,) = failed_drift(-6.4, -6.0, GATES)
    assert "expected at least -6.300: -6.000 before the first day" in line


def test_weights_stay_finite_and_small() -> None:
    old = {"a": torch.ones(3), "b": torch.ones(3), "c": torch.zeros(3), "d": torch.ones(3)}
    new = {**old, "a": torch.tensor([1.0, float("nan"), 1.0]), "b": 2 * torch.ones(3)}
    new["c"] = torch.ones(3)  # it had no norm to compare with
    lines = list(bad_weights(old, new, GATES))
    assert [line.split(" ")[0] for line in lines] == ["a", "b"]
