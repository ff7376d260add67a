"""`bench sizing`: figures computed by hand, monotonic, and equal to deploy/README.md."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.footprint import measure_bytes
from bench.load.sizing import (
    USERS,
    Assumed,
    Measured,
    main,
    read_measured,
    render,
    render_basis,
    size,
)
from models.errors import InvalidInput
from offline.live.gc import KEEP
from tests import ROOT
from tests.fakes.night_world import toy_release

ROUND = Measured(
    saturation_rps=1000,
    record_bytes=300,
    thoughts_bytes=200,
    history_bytes=1000,
    service_mb=200,
    think_users_per_s=20,
    load_s=200,
    verify_s=50,
    activate_s=200,
)


def test_a_sizing_done_by_hand() -> None:
    """100M users, 5 requests a day, three times the mean at peak; half of 1,000 a second a pod."""
    found = size(100e6, ROUND, Assumed())
    assert found.peak_rps == pytest.approx(17_361.1, abs=0.1)
    assert found.pods == 35  # 17,361 / 500
    assert found.pod_gib == 1.0  # 700 MB, in halves
    assert found.bytes_per_user == 4 * 500 + 1000
    assert found.redis_gib == pytest.approx(279.4, abs=0.1)  # 3e11 / 2**30
    assert found.shards == 12  # 279.4 / 24
    assert found.cells == 3  # 450 s a million: 45,000 s of 21,600
    assert found.think_cores == 70  # 30M / 20 a second / 21,600 s
    assert found.gpus == 209  # 30M x 1,500 tokens / 10,000 a second / 21,600 s
    assert found.service_month == pytest.approx(730 * 35 * 0.045)
    assert found.redis_month == pytest.approx(730 * 2 * (12 * 0.04 + 279.4 * 1.5 * 0.005), rel=1e-3)
    assert found.night_month == pytest.approx(730 / 24 * 6 * 70 * 0.04)


@given(st.floats(1, 1e9), st.floats(1, 10))
def test_more_users_never_need_less(users: float, factor: float) -> None:
    one, more = (size(each, ROUND, Assumed()) for each in (users, users * factor))
    for name in ("pods", "shards", "cells", "think_cores", "gpus", "service_month", "redis_month"):
        assert getattr(one, name) <= getattr(more, name)
    assert one.pods * ROUND.saturation_rps * 0.5 >= one.peak_rps
    assert one.shards * Assumed().shard_gib >= one.redis_gib


def test_a_rate_that_is_given_counts_and_not_the_users() -> None:
    assert size(1e6, ROUND, Assumed(), peak_rps=50_000).pods == 100
    by_rate = size(1e6, ROUND, replace(Assumed(), shard_rps=1000), peak_rps=50_000)
    assert by_rate.shards == 50


def test_the_table_of_the_readme_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """So that a new measurement, or another default, changes both or fails here."""
    assert main([]) == 0
    printed = capsys.readouterr().out
    table, _, basis = printed.partition("\n\n")
    readme = (ROOT / "deploy" / "README.md").read_text()
    assert table in readme
    assert basis.strip() in readme
    sizes = [size(users, read_measured(), Assumed()) for users in USERS]
    assert table == render(sizes)
    assert basis.strip() == render_basis(read_measured(), Assumed())


def test_another_number_of_users_is_asked_for_as_it_is_spoken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--users", "4e6", "--rps", "7000", "--replicas", "0", "--gpu-hour", "3"]) == 0
    out = capsys.readouterr().out
    assert "| users | 4M |" in out
    assert "| requests/s at peak | 7,000 |" in out
    assert (
        f"| service pods (1 core each) | {math.ceil(7000 / (read_measured().saturation_rps / 2))} |"
        in out
    )
    assert "assumed `replicas`: 0" in out


def test_generations_in_redis_are_those_that_the_night_keeps() -> None:
    live_and_loading = 2
    assert Assumed().generations == KEEP + live_and_loading


@pytest.mark.parametrize("words", [["--users", "0"], ["--users", "1.5"], ["--peak", "-1"]])
def test_numbers_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)


def test_one_rate_goes_with_one_number_of_users() -> None:
    with pytest.raises(InvalidInput, match="--rps"):
        main(["--rps", "100"])


def test_results_of_another_shape_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"latency\.json"):
        read_measured(tmp_path)
    for name in ("latency", "million", "refresh", "footprint"):
        report = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())
        if name == "footprint":
            report["rows"] = [row for row in report["rows"] if row["name"] != "history_9"]
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    with pytest.raises(InvalidInput, match="history_9"):
        read_measured(tmp_path)


def test_bytes_of_a_user_are_counted_on_a_real_redis() -> None:
    sizes = {
        str(row["name"]): float(row["bytes_per_user"]) for row in measure_bytes(toy_release(), 500)
    }
    assert sizes["record_32"] < sizes["record_100"] < sizes["json_100"]
    assert sizes["thoughts_1"] < sizes["thoughts_5"]
    assert 9 * 16 < sizes["history_9"] < 2_000  # 4,365 with nodes of the default size
    assert sizes["history_9"] < sizes["history_50"]


def test_prices_are_said_to_be_assumed() -> None:
    lines = render_basis(ROUND, Assumed()).splitlines()
    assert {re.split("[ `]+", line)[1] for line in lines if "hour" in line} == {"assumed"}
