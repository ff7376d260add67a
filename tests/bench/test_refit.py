"""Refit rows, and the refusal of releases that have learnt the targets."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import EX_CONFIG
from bench.__main__ import main as bench
from bench.common.leave_one_out import cut_histories, learnt_histories
from bench.quality.quality import main
from bench.quality.ranking.counts_row import CountsRow, all_neighbours
from bench.quality.ranking.row_sets import count_trained
from models.baselines.sasrec import save_sasrec
from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset, load_dataset
from models.errors import InvalidSettings, ReleaseMismatch
from models.release.release import Learns, Release
from tests.bench.test_quality import NIGHT_ROWS, PLAIN_ROWS, toy_sasrec, write_dataset
from tests.fakes.toy import toy_catalog, toy_release


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), toy_catalog())


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[Learns, Release]:
    folder = tmp_path_factory.mktemp("releases")
    return {each: toy_release(folder / each.name.lower(), learnt=each) for each in Learns}


def arguments(release: Release, data: Path, *more: str) -> list[str]:
    return ["--release", str(release.directory), "--data", str(data), "--no-thoughts", *more]


def read_rows(file: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(file.read_text())["rows"]}


def test_a_manifest_without_the_field_is_held_out(releases: dict[Learns, Release]) -> None:
    manifest = releases[Learns.EVERYTHING].manifest.model_dump()
    assert manifest.pop("learnt") is Learns.EVERYTHING
    assert type(releases[Learns.EVERYTHING].manifest)(**manifest).learnt is Learns.HELD_OUT


@pytest.mark.parametrize(
    ("learnt", "split"),
    [(Learns.EVERYTHING, "test"), (Learns.EVERYTHING, "valid"), (Learns.NOT_THE_TEST, "valid")],
)
@pytest.mark.parametrize("command", ["quality", "staleness", "frontier"])
def test_a_release_that_learnt_the_targets_is_refused(
    releases: dict[Learns, Release],
    data: Path,
    capsys: pytest.CaptureFixture[str],
    learnt: Learns,
    split: str,
    command: str,
) -> None:
    given = ["--release", str(releases[learnt].directory), "--data", str(data), "--split", split]
    assert bench([command, *given]) == EX_CONFIG
    error = capsys.readouterr().err
    assert f"manifest.json: learnt {learnt.value!r}, expected 'held-out'" in error
    assert f"on the {split} split" in error


@pytest.mark.parametrize(
    ("learnt", "split"),
    [(Learns.HELD_OUT, "test"), (Learns.HELD_OUT, "valid"), (Learns.NOT_THE_TEST, "test")],
)
def test_a_release_that_did_not_learn_the_targets_is_judged(
    releases: dict[Learns, Release], data: Path, learnt: Learns, split: str
) -> None:
    assert main(arguments(releases[learnt], data, "--split", split, "--users", "5")) == 0


def test_popularity_and_counts_are_refit_without_being_asked_and_count_validation_items(
    releases: dict[Learns, Release], data: Path, tmp_path: Path
) -> None:
    release, file = releases[Learns.HELD_OUT], tmp_path / "table.json"
    assert main(arguments(release, data, "--json", str(file))) == 0
    rows = read_rows(file)
    assert list(rows) == [*PLAIN_ROWS, *NIGHT_ROWS, "popularity_refit", "counts_refit"]
    dataset, catalog = load_dataset(data), release.catalog
    cases = cut_histories(dataset, catalog, split="test")
    held_out, ranks = (
        [row.rank(case) for case in cases]
        for row in (counts_row(dataset, catalog, held_out=number) for number in (2, 1))
    )
    hits = [rank <= 10 for rank in ranks]
    assert rows["counts_refit"]["recall@10"] == pytest.approx(sum(hits) / len(hits))
    assert ranks != held_out
    assert min(ranks) < math.inf


def counts_row(dataset: Dataset, catalog: Catalog, *, held_out: int) -> CountsRow:
    histories = learnt_histories(dataset, catalog, held_out=held_out)
    return CountsRow(
        all_neighbours(histories, len(catalog)), count_trained(dataset, catalog, held_out=held_out)
    )


def test_the_validation_split_has_no_refit_rows(
    releases: dict[Learns, Release], data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "table.json"
    given = arguments(releases[Learns.HELD_OUT], data, "--split", "valid", "--json", str(file))
    assert main(given) == 0
    assert list(read_rows(file)) == [*PLAIN_ROWS, *NIGHT_ROWS]
    with pytest.raises(InvalidSettings, match="--refit on the split 'valid'"):
        main([*given, "--refit", str(releases[Learns.NOT_THE_TEST].directory)])


def test_a_refit_release_and_a_refit_sasrec_add_rows_paired_with_the_others(
    releases: dict[Learns, Release], data: Path, tmp_path: Path
) -> None:
    """The toy releases have the same weights, so that the rows and differences are known."""
    release, refit = releases[Learns.HELD_OUT], releases[Learns.NOT_THE_TEST]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "model.safetensors"
        save_sasrec(toy_sasrec(release.catalog), file, release.catalog.item_ids)
    given = ["--sasrec", str(tmp_path / "a"), "--sasrec-refit", str(tmp_path / "b")]
    given += ["--refit", str(refit.directory), "--json", str(tmp_path / "table.json")]
    assert main(arguments(release, data, *given)) == 0
    rows = read_rows(tmp_path / "table.json")
    plain = ["popularity", "counts", "sasrec", "memory", "online_no_memory", "online", *NIGHT_ROWS]
    assert sorted(rows) == sorted([*plain, *(f"{name}_refit" for name in plain)])
    assert rows["online_refit"]["recall@10"] == rows["online"]["recall@10"] > 0
    meta = json.loads((tmp_path / "table.json").read_text())["meta"]
    assert meta["refit"] == f"{refit.name}@{refit.version}"
    same = meta["differences"]["online_refit minus online"]["recall@10"]
    assert (same["low"], same["mean"], same["high"]) == (0, 0, 0)
    assert "counts_refit minus counts" in meta["differences"]


@pytest.mark.parametrize("learnt", [Learns.HELD_OUT, Learns.EVERYTHING])
def test_a_release_that_is_not_refit_is_no_refit_release(
    releases: dict[Learns, Release], data: Path, learnt: Learns
) -> None:
    given = arguments(releases[Learns.HELD_OUT], data, "--refit", str(releases[learnt].directory))
    with pytest.raises(
        InvalidSettings, match=f"learnt '{learnt.value}', expected 'not the test items'"
    ):
        main(given)


def test_a_refit_release_of_other_items_is_refused(
    releases: dict[Learns, Release], data: Path, tmp_path: Path
) -> None:
    other = toy_release(
        tmp_path / "other", catalog=toy_catalog(num_items=150), learnt=Learns.NOT_THE_TEST
    )
    given = arguments(releases[Learns.HELD_OUT], data, "--refit", str(other.directory))
    with pytest.raises(ReleaseMismatch, match="150 items, expected the 200"):
        main(given)
