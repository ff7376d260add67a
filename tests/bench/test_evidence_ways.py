"""`bench evidence` on the toy world: four ways to ask, against plain recitals and thoughts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench.common.leave_one_out import cut_histories
from bench.quality.evidence_ways import main, read_spec
from bench.quality.learnt import refuse_reader
from models.catalog.catalog import Catalog
from models.catalog.dataset import load_dataset
from models.errors import InvalidInput
from models.reasoner.next_items import NextItem, judge_next_items
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from tests.bench.test_quality import NUM_USERS, write_dataset
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy_evidence import reading_release


@pytest.mark.parametrize("text", ["name", "=somewhere", "name="])
def test_a_reasoner_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(f"reasoner {text!r}")):
        read_spec(text, reads_evidence=True)


def test_ways_are_rows_and_their_differences_are_paired(release: Release, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", release.catalog)
    arguments = ["--release", str(release.directory), "--data", str(data), "--split", "valid"]
    arguments += ["--paths", "2", "--width", "3", "--cache", str(tmp_path / "cache")]
    arguments += ["--reader", f"a={release.reasoner_dir}"]
    arguments += ["--reasoner", f"b={release.reasoner_dir}"]
    assert main([*arguments, "--json", str(tmp_path / "found.json")]) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert_simple_rows("evidence", report["rows"])
    ways = [name for name in rows if ": " in name]
    assert ways == [
        "b: at once", "b: thought",
        "a: at once", "a: at once, evidence", "a: thought", "a: thought, evidence",
    ]  # fmt: skip
    assert rows["a: thought"]["log_p_prefix"] == rows["b: thought"]["log_p_prefix"]
    assert rows["a: at once"]["log_p_prefix"] != rows["a: at once, evidence"]["log_p_prefix"]
    assert rows["a: thought"]["log_p_prefix"] == pytest.approx(
        judged(release, data, paths=2, width=3), abs=1e-4
    )
    found = report["meta"]["differences"]["a: at once, evidence minus a: at once"]
    for metric in ("log_p_prefix", "prefix_recall@32", "recall@10"):
        expected = rows["a: at once, evidence"][metric] - rows["a: at once"][metric]
        assert found[metric]["mean"] == pytest.approx(expected)
    assert report["meta"]["users"] == NUM_USERS - 1


def judged(release: Release, data: Path, *, paths: int, width: int) -> float:
    """Mean log P(prefix) by the judge of a reasoner's day, with the same noise."""
    catalog: Catalog = release.catalog
    reasoner = TransformersReasoner.load(release.reasoner_dir, release.space)
    cases = cut_histories(load_dataset(data), catalog, split="valid")
    asked = [NextItem(case.history, case.target) for case in cases if case.target is not None]
    found = judge_next_items(reasoner, catalog, asked, paths=paths, width=width, seed=0)
    return float(np.mean([one.prefix_logprob for one in found]))


def test_commands_that_write_no_evidence_refuse_a_reasoner_that_reads_it(
    release: Release, tmp_path: Path
) -> None:
    refuse_reader(release)
    with pytest.raises(InvalidInput, match=r"reads evidence, expected \[thoughts\] evidence = 0"):
        refuse_reader(reading_release(release, tmp_path / "reader"))
