"""`bench ab`: hand-made logs added up by hand, and simulated experiments with a known truth."""

import json
from math import erfc, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.ab import ab
from bench.ab.exposures import add_up, read_events, read_exposures
from bench.ab.lift import Ratio, compare, ratio, sample_ratio_p
from models.errors import InvalidDataset, InvalidInput
from models.store.records import hash_user

HOUR = 3600


def shown(
    user: str, arm: str, at_s: float, *items: str, experiment: str = "test", share: float = 0.5
) -> dict[str, Any]:
    """A line as the service logs it."""
    return {
        "message": "exposure",
        "experiment": experiment,
        "arm": arm,
        "share": share,
        "user": f"{hash_user(user):016x}",
        "at_ms": int(at_s * 1000),
        "items": list(items),
    }


def done(user: str, at_s: float, item: str, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "timestamp": at_s, **more}


def write(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def sums_of(
    tmp_path: Path, exposures: list[Any], events: list[Any]
) -> dict[str, list[list[float]]]:
    """Numerator and denominator by user of every metric, of arm `a`, users in order of hash."""
    exposed = read_exposures([write(tmp_path / "exposures", exposures)])["test"]
    found = add_up(
        exposed.arms["a"], read_events([write(tmp_path / "events", events)]), window_s=HOUR
    )
    return {name: [column.tolist() for column in sums] for name, sums in found.items()}


def test_logs_add_up_as_by_hand(tmp_path: Path) -> None:
    many = [f"item-{at}" for at in range(12)]
    exposures = [
        shown("ann", "a", 1000, "x", "y"),
        shown("ann", "a", 2000, *many),
        shown("ann", "a", 90_000, "z"),
    ]
    events = [
        done("ann", 999, "x"),  # before any answer
        done("ann", 1500, "y", event_id="1"),  # a hit of the first
        done("ann", 1501, "y", event_id="1"),  # the same event once more
        done("ann", 2001, "x"),  # a hit of the first, but not of the last answer
        done("ann", 2002, "item-11"),  # a hit of the second, below its first 10
        done("ann", 2003, "item-9"),  # among its first 10
        done("ann", 2000 + HOUR + 1, "item-1"),  # too late
        done("bob", 2003, "x"),  # was not exposed
    ]
    assert sums_of(tmp_path, exposures, events) == {
        "events_per_user": [[4], [1]],
        "conversion": [[1], [1]],
        "hits_per_answer": [[2], [3]],
        "recall_at_10": [[2], [4]],
    }


def test_a_user_without_an_event_counts_with_nothing(tmp_path: Path) -> None:
    exposures = [shown("ann", "a", 1000, "x"), shown("bob", "a", 1000, "x")]
    found = sums_of(tmp_path, exposures, [done("ann", 1001, "other")])
    assert sorted(found["events_per_user"][0]) == [0, 1]
    assert found["conversion"] == [[0, 0], [1, 1]]


def test_events_may_name_users_by_their_hash_and_logs_may_be_text(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    line = json.dumps(shown("ann", "a", 1000, "x"))
    log.write_text(f"2026-11-25 10:00:00,123 INFO service.exposures exposure {line}\nother line\n")
    events = write(
        tmp_path / "events",
        [{"user": f"{hash_user('ann'):016x}", "item_id": "x", "timestamp": 1001}],
    )
    exposed = read_exposures([log])["test"]
    found = add_up(exposed.arms["a"], read_events([events]), window_s=HOUR)
    assert found["conversion"].numerator_U.tolist() == [1]


def test_a_user_in_two_arms_counts_in_none(tmp_path: Path) -> None:
    exposures = [shown("ann", "a", 1, "x"), shown("ann", "b", 2, "x"), shown("bob", "a", 3, "x")]
    exposed = read_exposures([write(tmp_path / "log", exposures)])["test"]
    assert {arm: len(users) for arm, users in exposed.arms.items()} == {"a": 1, "b": 0}
    assert exposed.mixed == {f"{hash_user('ann'):016x}"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("no json", "events:1: no JSON"),
        ('{"user_id": "a", "timestamp": 1}', "events:1: item_id is None"),
        ('{"user_id": 1, "item_id": "x", "timestamp": 1}', "events:1: user_id is 1"),
        ('{"user_id": "a", "item_id": "x", "timestamp": "now"}', "events:1: timestamp is 'now'"),
    ],
)
def test_a_bad_event_names_file_and_line(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "events").write_text(line)
    with pytest.raises(InvalidDataset, match=why):
        read_events([tmp_path / "events"])


def test_a_ratio_varies_as_resampled_users_say() -> None:
    """Clicks per view. Users with more views click more, so views are not independent."""
    rng = np.random.default_rng(0)
    views = (rng.poisson(5, 3000) + 1).astype(np.float64)
    clicks = rng.binomial(views.astype(int), rng.beta(1, 4, 3000)).astype(np.float64)
    found = ratio(clicks, views)
    assert found is not None
    resampled = [
        clicks[draw].sum() / views[draw].sum()
        for draw in (rng.integers(3000, size=3000) for _ in range(2000))
    ]
    assert found.value == pytest.approx(clicks.sum() / views.sum())
    assert found.variance == pytest.approx(np.var(resampled), rel=0.1)


def simulate(rng: np.random.Generator, *, lift: float, num_users: int = 400) -> tuple[Ratio, Ratio]:
    """Clicks an answer in two arms; the treatment's rate is `lift` higher, relatively."""
    arms = []
    for factor in (1.0, 1.0 + lift):
        views = rng.poisson(4, num_users) + 1
        rate = rng.beta(2, 18, num_users) * factor  # mean 0.1, another one for each user
        found = ratio(rng.binomial(views, rate).astype(float), views.astype(float))
        assert found is not None
        arms.append(found)
    return arms[1], arms[0]


def test_an_a_a_test_is_significant_as_often_as_it_may_be() -> None:
    rng = np.random.default_rng(1)
    p_values = np.array([compare(*simulate(rng, lift=0)).p_value for _ in range(1000)])
    assert 0.03 < (p_values < 0.05).mean() < 0.07
    assert 0.45 < (p_values < 0.5).mean() < 0.55


def test_the_interval_holds_a_known_lift_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    lifts = [compare(*simulate(rng, lift=0.2)) for _ in range(1000)]
    covered = [lift.low <= 0.02 <= lift.high for lift in lifts]
    relatively = [
        lift.relative_low <= 0.2 <= lift.relative_high
        for lift in lifts
        if lift.relative_low is not None and lift.relative_high is not None
    ]
    assert len(relatively) == 1000
    assert 0.93 < np.mean(covered) < 0.97
    assert 0.93 < np.mean(relatively) < 0.97
    assert np.mean([lift.relative for lift in lifts]) == pytest.approx(0.2, abs=0.02)


def test_nothing_to_compare_with_is_no_number() -> None:
    nobody, two = np.array([]), np.array([0.0, 0.0])
    assert ratio(nobody, nobody) is None
    assert ratio(two, two) is None
    zero = ratio(two, np.ones(2))
    assert zero is not None
    lift = compare(zero, zero)
    assert (lift.difference, lift.relative, lift.p_value) == (0.0, None, 1.0)


def test_the_sample_ratio_test_equals_the_binomial_one_for_two_arms() -> None:
    """Chi-squared with one degree of freedom is the square of a normal: erfc says the same."""
    z = (5150 - 5000) / sqrt(10_000 / 4)
    found = sample_ratio_p({"a": 5150, "b": 4850}, {"a": 1, "b": 1})
    assert found == pytest.approx(erfc(z / sqrt(2)))
    assert sample_ratio_p({"a": 900, "b": 100}, {"a": 9, "b": 1}) == pytest.approx(1.0)
    assert sample_ratio_p({"a": 1000}, {"a": 1, "b": 1}) < 1e-9  # an arm that nobody is in


def experiment(folder: Path, *, lift: float, num_b: int = 2000) -> list[str]:
    """Logs of 2,000 users in `control` and `num_b` in `b`; arguments for the command."""
    rng = np.random.default_rng(3)
    exposures, events = [], []
    for arm, count, rate in (("control", 2000, 0.2), ("b", num_b, 0.2 + lift)):
        for number in range(count):
            user = f"{arm}-{number}"
            for answer in range(3):
                at_s = 1000.0 * answer
                exposures.append(shown(user, arm, at_s, "x", "y"))
                if rng.random() < rate:
                    events.append(done(user, at_s + 10, "x" if rng.random() < 0.5 else "other"))
    files = [write(folder / "exposures", exposures), write(folder / "events", events)]
    out = str(folder / "ab.json")
    return ["--exposures", str(files[0]), "--events", str(files[1]), "--json", out]


def test_the_command_finds_a_lift_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ab.main(experiment(tmp_path, lift=0.1)) == 0
    report = json.loads((tmp_path / "ab.json").read_text())
    row = {each["name"]: each for each in report["rows"]}["events_per_user b"]
    assert row["control"] == pytest.approx(0.6, abs=0.05)
    assert row["lift_low"] < 0.3 < row["lift_high"]
    assert row["p_value"] < 1e-6
    assert row["relative_low"] < 0.5 < row["relative_high"]
    assert not report["meta"]["sample_ratio"]["is_mismatch"]
    assert "events_per_user b" in capsys.readouterr().out


def test_the_command_refuses_to_trust_arms_of_the_wrong_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ab.main(experiment(tmp_path, lift=0.0, num_b=1700)) == 1
    assert "SAMPLE RATIO MISMATCH" in capsys.readouterr().out
    arguments = experiment(tmp_path, lift=0.0, num_b=1000)
    assert ab.main([*arguments, "--shares", "control=2", "b=1"]) == 0


def test_which_experiment_has_to_be_said_where_there_are_two(tmp_path: Path) -> None:
    lines = [
        shown(user, arm, 1, "x", experiment=name)
        for name in ("one", "two")
        for user, arm in (("ann", "a"), ("bob", "b"))
    ]
    log, events = write(tmp_path / "log", lines), write(tmp_path / "events", [])
    files = ["--exposures", str(log), "--events", str(events)]
    with pytest.raises(InvalidInput, match=r"which experiment\? .*one, two"):
        ab.main(files)
    with pytest.raises(InvalidInput, match=r"which control arm\? .*a, b"):
        ab.main([*files, "--experiment", "one"])
    with pytest.raises(InvalidInput, match="no control arm c"):
        ab.main([*files, "--experiment", "one", "--control", "c"])
    assert ab.main([*files, "--experiment", "one", "--control", "a"]) == 0
