"""The table of training stages on the toy world."""

import json
import math
import re
from pathlib import Path

import pytest

from bench.common.leave_one_out import Case
from bench.quality.ranking.reasoner_rank import rank_of_target
from bench.quality.training_stages import main, read_spec
from models.errors import InvalidInput
from models.reasoner.think import UserHistory
from models.release.release import Release
from tests.bench.test_quality import NUM_USERS, write_dataset
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy import toy_catalog


def test_a_rank_counts_the_unseen_items_of_better_sids() -> None:
    catalog = toy_catalog()
    sids = [tuple(catalog.sids[row].tolist()) for row in (5, 9, 2)]
    before = [
        row
        for sid in dict.fromkeys(sids)
        for row in range(len(catalog))
        if tuple(catalog.sids[row].tolist()) == sid
    ]
    history = UserHistory("user", (0,))
    assert rank_of_target(catalog, Case(history, (), 2), sids) == before.index(2) + 1
    assert rank_of_target(catalog, Case(history, (5,), 2), sids) == before.index(2)
    assert rank_of_target(catalog, Case(history, (2,), 2), sids) == math.inf
    assert rank_of_target(catalog, Case(history, (), None), sids) == math.inf


@pytest.mark.parametrize("text", ["base", "base=think", "=think:somewhere", "base=dream:somewhere"])
def test_a_row_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(f"--row {text!r}, expected NAME=MANNER:DIR")):
        read_spec(text)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no config\.json there"):
        read_spec(f"base=think:{tmp_path}")


def test_stages_are_rows_with_their_gain_over_the_row_before(
    release: Release, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", release.catalog)
    directory = release.reasoner_dir
    arguments = ["--release", str(release.directory), "--data", str(data), "--workers", "1"]
    arguments += ["--paths", "2", "--width", "3", "--cache", str(tmp_path / "cache")]
    for row in ("base=preference", "r=think", "again=silent"):
        arguments += ["--row", f"{row}:{directory}"]
    assert main([*arguments, "--json", str(tmp_path / "stages.json")]) == 0
    report = json.loads((tmp_path / "stages.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["popularity", "counts", "base", "r", "r_silent", "again"]
    assert_simple_rows("stages", report["rows"])
    assert report["meta"]["users"] == NUM_USERS - 1
    assert rows["base"]["tokens"] == rows["again"]["tokens"] == 0
    assert rows["r"]["tokens"] > 0
    assert rows["base"]["sids"] == rows["again"]["sids"] == 6
    gains = report["meta"]["gain_over_the_row_before"]
    assert list(gains) == ["r minus base", "again minus r", "r minus r_silent"]
    assert rows["r_silent"]["recall@10"] == rows["again"]["recall@10"]  # the same reasoner
    for metric, interval in gains["r minus base"].items():
        difference = rows["r"][metric] - rows["base"][metric]
        assert interval["mean"] == pytest.approx(difference)
