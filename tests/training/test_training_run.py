"""`python -m training all` as a user runs it, and the service over its release."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.common.leave_one_out import cut_histories
from bench.quality.ranking.plain_rows import rank_plain
from bench.quality.ranking.rank_metrics import ndcg_at, recall_at
from bench.quality.ranking.row_sets import model_rows, simple_rows
from models.catalog.catalog import Catalog, popular_prefixes
from models.catalog.dataset import Dataset, Interaction, load_dataset
from models.online.build_kernel import built_library
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.release.release import Learns, Release
from models.release.searchers import load_finisher, load_searcher
from tests.fakes.service_harness import ServiceProcess
from training.cli import main
from training.item_text import WIDTH
from training.split import split_dataset, training_histories

pytestmark = pytest.mark.timeout(900)

NUM_USERS, NUM_ITEMS = 250, 600
WHOLE = ("--seed", "1", "--force")  # of the tiny recipe: it learns too little to beat popularity


def write_slice(source: Path, target: Path, *, num_users: int = NUM_USERS) -> Path:
    """The busiest items of a data folder and the first users of five of them, without titles."""
    events = pq.read_table(source / "interactions.parquet")
    busiest = events["item_id"].value_counts().to_pylist()
    busiest.sort(key=lambda row: (-row["counts"], row["values"]))
    items = pa.array([row["values"] for row in busiest[:NUM_ITEMS]])
    events = events.filter(pc.is_in(events["item_id"], items))
    users = [
        row["values"] for row in events["user_id"].value_counts().to_pylist() if row["counts"] >= 5
    ]
    events = events.filter(pc.is_in(events["user_id"], pa.array(users[:num_users])))
    items = pq.read_table(source / "items.parquet")
    items = items.filter(pc.is_in(items["item_id"], pc.unique(events["item_id"])))
    at = items.column_names.index("title")
    items = items.set_column(at, "title", pa.nulls(items.num_rows, pa.string()))
    target.mkdir()
    pq.write_table(events, target / "interactions.parquet")
    pq.write_table(items, target / "items.parquet")
    return target


def arguments(stage: str, data: Path, out: Path, *options: str) -> list[str]:
    where = ["--data", str(data), "--out", str(out), "--config", "training/runs/tiny.toml"]
    return [stage, *where, *options]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the data and its release, which the first test process makes for all."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "slice"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "sliced" / "manifest.json").exists():
            train(write_slice(Path("data/beauty"), folder / "data"), folder / "sliced")
    return folder


def train(data: Path, out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training", *arguments("all", data, out, *WHOLE)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def data(shared: Path) -> Path:
    return shared / "data"


@pytest.fixture(scope="module")
def trained(shared: Path) -> Release:
    """The release of the first round, which is judged."""
    return Release.load(shared / "sliced.work" / "held-out")


@pytest.fixture(scope="module")
def whole(shared: Path) -> Release:
    """The published release of the second round, which has learnt everything."""
    return Release.load(shared / "sliced")


def test_a_slice_without_titles_trains_into_a_sound_release(trained: Release, data: Path) -> None:
    dataset = load_dataset(data)
    assert len(dataset.histories) == NUM_USERS
    assert set(trained.catalog.item_ids) == set(dataset.items)
    assert set(trained.catalog.titles) == {None}
    assert trained.name == "sliced-held-out"
    assert trained.manifest.recipe["seed"] == 1
    metrics = trained.manifest.metrics
    assert 0 <= metrics["online"]["ndcg@10_no_memory"] <= metrics["online"]["recall@10_no_memory"]
    assert metrics["reasoner"]["activate"]["loss"] < metrics["reasoner"]["align"]["loss"]


def test_popularity_counts_no_target(trained: Release, data: Path) -> None:
    expected: dict[str, int] = {}
    for history in load_dataset(data).histories.values():
        for event in history[:-2]:
            expected[event.item_id] = expected.get(event.item_id, 0) + 1
    catalog: Catalog = trained.catalog
    found = dict(zip(catalog.item_ids, catalog.popularity.tolist(), strict=True))
    assert {item: count for item, count in found.items() if count} == expected


def test_the_trained_recommender_prefers_the_catalog(trained: Release) -> None:
    """Two short epochs teach which codes go together: the catalog's share of probability is more
    than its share of the address space."""
    finisher = load_finisher(trained)
    state = finisher.encode([0, 1, 2])
    assert len(finisher.finish(state, finisher.own_prefixes(state, count=20), k=10)) == 10


def copied(shared: Path, target: Path) -> Path:
    """A copy of the published release and its work folder."""
    copy = target / "sliced"
    for suffix in ("", ".work"):
        shutil.copytree(f"{shared / 'sliced'}{suffix}", f"{copy}{suffix}")
    return copy


def test_a_second_run_with_the_same_recipe_does_nothing_twice(
    whole: Release, shared: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    copy = copied(shared, tmp_path)
    assert main(arguments("all", data, copy, *WHOLE)) == 0
    assert caplog.text.count("already done") == 6
    assert Release.load(copy).version == whole.version


def randomise(file: Path) -> None:
    """Replace weights by random ones, so large that the memory has no say beside them."""
    torch.manual_seed(0)
    weights = load_file(file)
    for name, weight in weights.items():
        if weight.is_floating_point():
            weights[name] = 3 * torch.randn_like(weight)
    save_file(weights, file)


def test_a_model_below_popularity_is_not_published_unless_it_is_forced(
    shared: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model of the first round is replaced by a random one, and judged again."""
    copy = copied(shared, tmp_path)
    shutil.rmtree(copy)
    work = copy.with_name(copy.name + ".work")
    randomise(work / "online.safetensors")
    (work / "held_out.json").unlink()
    assert main(arguments("all", data, copy, "--seed", "1")) == 65
    said = capsys.readouterr()
    assert "online model without memory" in said.out
    assert "not published: the online model has NDCG@10" in said.err
    assert "popularity" in said.err
    assert "FORCE=1" in said.err
    assert not copy.exists()
    assert main(arguments("all", data, copy, *WHOLE, "--learns", "held-out")) == 0
    published = Release.load(copy)
    assert published.manifest.learnt is Learns.HELD_OUT
    card = (copy / "README.md").read_text().splitlines()
    assert card[0] == "# Release `sliced`"
    assert card[2].startswith("**Published by force, below a simple row: the online model has")


def test_the_published_release_has_learnt_everything_with_the_same_semantic_ids(
    trained: Release, whole: Release, data: Path
) -> None:
    assert (trained.manifest.learnt, whole.manifest.learnt) == (Learns.HELD_OUT, Learns.EVERYTHING)
    histories = load_dataset(data).histories.values()
    assert whole.catalog.popularity.sum() == sum(map(len, histories))
    sids = dict(zip(trained.catalog.item_ids, trained.catalog.sids.tolist(), strict=True))
    assert dict(zip(whole.catalog.item_ids, whole.catalog.sids.tolist(), strict=True)) == sids
    assert whole.space == trained.space
    assert whole.global_prefixes == popular_prefixes(whole.catalog, len(whole.global_prefixes))
    held_out, everything = trained.manifest, whole.manifest
    assert everything.metrics["online"]["epoch"] == held_out.metrics["online"]["epoch"]
    assert everything.metrics["reasoner"]["validation"]["closed_paths"] >= 0
    changed = ("online.safetensors", "neighbours.safetensors", "reasoner/model.safetensors")
    assert all(everything.files[name] != held_out.files[name] for name in changed)


def test_the_held_out_table_is_that_of_the_benchmark(
    trained: Release, whole: Release, shared: Path, data: Path
) -> None:
    """Rows of `bench quality` over the same users and release; its counts keep every pair."""
    table = whole.manifest.metrics["held_out"]
    made = json.loads((shared / "sliced.work" / "held_out.json").read_text())["made"]
    assert table == made | {"forced": table["forced"]}
    dataset = load_dataset(data)
    rankers = simple_rows(dataset, trained.catalog) | model_rows(trained)
    cases = cut_histories(dataset, trained.catalog, split="test")
    found = rank_plain(rankers, trained.catalog, cases, on_progress=lambda done: None)
    for name, outcome in found.items():
        expected = recall_at(outcome.rank_U, 10).mean(), ndcg_at(outcome.rank_U, 10).mean()
        row = table["rows"][name]
        near = 0.01 if name == "counts" else 1e-6
        assert (row["recall@10"], row["ndcg@10"]) == pytest.approx(expected, abs=near)
    assert table["rows"]["two_tiers_at_once"]["users"] == NUM_USERS


def test_the_card_describes_this_data_set(whole: Release, data: Path) -> None:
    card = (whole.directory / "README.md").read_text()
    num_items = len(whole.catalog)
    assert f"| items | {num_items:,}, 0% with a title |" in card
    assert f"| users | {NUM_USERS}, {NUM_USERS} of three items or more |" in card
    assert "| folder | `data` |" in card
    assert f"| semantic ids | {len(whole.catalog.trie):,}; other items share one |" in card
    assert "| time | 20" in card
    assert "no held-out item is left" in card
    assert f"| online model | {NUM_USERS} | 0." in card
    assert not {"Beauty", "Amazon", "reviews", "Research"} & set(card.split())


def test_the_service_serves_what_was_trained(trained: Release, tmp_path: Path) -> None:
    state = {"THINKAHEAD_STATE_DIR": str(tmp_path)}
    with ServiceProcess("--release", str(trained.directory), environ=state) as service:
        response = httpx.get(f"{service.url}/recommend/somebody?n=5", timeout=30)
        assert response.status_code == 200
        body = response.json()
        assert body["release"] == f"{trained.name}@{trained.version}"
        assert body["source"] in ("global", "popular")
        assert len(body["items"]) == 5
        assert all(item["title"] is None for item in body["items"])
        assert service.stop() == 0


def test_a_release_whose_reasoner_learnt_everything_is_not_renewed_as_held_out(
    whole: Release, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("renew", data, whole.directory, "--learns", "held-out")) == 78
    assert "its reasoner has learnt everything, expected --learns everything" in (
        capsys.readouterr().err
    )


def test_a_renewed_release_keeps_catalog_and_reasoner(
    trained: Release, data: Path, tmp_path: Path
) -> None:
    """A release renewed with its old weights is the same model; trained again, it is another."""
    copy = tmp_path / "copy"
    shutil.copytree(trained.directory, copy)
    updates = {"parent": trained.version, "watermark": "7-0", "epoch": 3}  # as on a live base
    forget(copy, updates=updates)
    assert Release.load(copy).load_neighbours() is None
    assert main(arguments("renew", data, copy, "--keep-weights")) == 0
    again = Release.load(copy)
    assert again.manifest.recipe["updates"] == updates
    assert again.manifest.memory == trained.manifest.memory
    found, expected = again.load_codebooks(), trained.load_codebooks()
    assert found is not None
    assert expected is not None
    for ours, theirs in zip(found.levels, expected.levels, strict=True):
        np.testing.assert_allclose(ours[:, :WIDTH], theirs[:, :WIDTH], atol=1e-5)
    same = "catalog.parquet", "online.safetensors", "reasoner/model.safetensors", "extend.onnx"
    assert [again.manifest.files[name] == trained.manifest.files[name] for name in same] == [
        True
    ] * 4
    assert main(arguments("renew", data, copy, "--seed", "2")) == 0
    other = Release.load(copy)
    changed = [name for name in same if other.manifest.files[name] != again.manifest.files[name]]
    assert changed == ["online.safetensors"]
    assert "updates" not in other.manifest.recipe
    served_by = "onnx-float32" if built_library() is None else "native-float32"
    assert load_searcher(other).precision == served_by


def with_other_items(data: Path, target: Path) -> Path:
    """The data with one more item, that everybody takes last, and without the item of the first
    event."""
    items = pq.read_table(data / "items.parquet")
    events = pq.read_table(data / "interactions.parquet")
    gone = events["item_id"][0].as_py()
    fresh = {"item_id": "fresh", "title": "A fresh nail polish", "brand": "New"}
    items = items.filter(pc.not_equal(items["item_id"], gone))
    row = {name: [fresh.get(name)] for name in items.column_names}
    more = [
        {"user_id": user, "item_id": "fresh", "pos": 10_000}
        for user in pc.unique(events["user_id"]).to_pylist()
    ]
    last = {name: [event.get(name, 0) for event in more] for name in events.column_names}
    target.mkdir()
    items = pa.concat_tables([items, pa.table(row, schema=items.schema)])
    pq.write_table(items, target / "items.parquet")
    kept = events.filter(pc.not_equal(events["item_id"], gone))
    kept = pa.concat_tables([kept, pa.table(last, schema=events.schema)])
    pq.write_table(kept, target / "interactions.parquet")
    return target


def test_a_renewed_release_takes_new_items_and_drops_those_that_are_gone(
    whole: Release, data: Path, tmp_path: Path
) -> None:
    newer = with_other_items(data, tmp_path / "newer")
    copy = Path(shutil.copytree(whole.directory, tmp_path / "copy"))
    assert main(arguments("renew", newer, copy, "--keep-weights")) == 0
    again = Release.load(copy)
    (gone,) = set(whole.catalog.item_ids) - set(again.catalog.item_ids)
    assert set(again.catalog.item_ids) - set(whole.catalog.item_ids) == {"fresh"}
    sid_of = dict(zip(whole.catalog.item_ids, whole.catalog.sids.tolist(), strict=True))
    for item_id, sid in zip(again.catalog.item_ids, again.catalog.sids.tolist(), strict=True):
        assert sid_of.get(item_id, sid) == sid
    assert again.space.fingerprint == whole.space.fingerprint
    fresh = again.catalog.row("fresh")
    assert fresh is not None
    assert again.catalog.popularity[fresh] == NUM_USERS
    assert again.manifest.metrics["quantize"]["items"] == len(whole.catalog)
    finisher = load_finisher(again)
    state = finisher.encode([0, 1, 2])
    assert len(finisher.finish(state, finisher.own_prefixes(state, count=20), k=10)) == 10
    assert finisher.encode([fresh]).num_items == 1
    assert gone not in again.popular


def test_other_data_are_no_newer_data(
    whole: Release, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_slice(data, tmp_path / "other")
    for name in ("interactions", "items"):
        table = pq.read_table(other / f"{name}.parquet")
        at = table.column_names.index("item_id")
        strange = pa.array([f"other-{item}" for item in table["item_id"].to_pylist()])
        pq.write_table(table.set_column(at, "item_id", strange), other / f"{name}.parquet")
    assert main(arguments("renew", other, whole.directory, "--keep-weights")) == 78
    assert "none of its items is in the data" in capsys.readouterr().err


def test_a_release_learns_everything_after_its_epochs_were_chosen(
    trained: Release, data: Path, tmp_path: Path
) -> None:
    learns = ["--learns", "everything", "--to", str(tmp_path / "again")]
    assert main(arguments("renew", data, trained.directory, *learns)) == 0
    again = Release.load(tmp_path / "again")
    events = sum(len(history) for history in load_dataset(data).histories.values())
    assert again.catalog.popularity.sum() == events
    assert again.catalog.item_ids == trained.catalog.item_ids
    assert again.manifest.metrics["online"]["epoch"] == trained.manifest.metrics["online"]["epoch"]
    assert Release.load(trained.directory).version == trained.version
    assert (trained.manifest.learnt, again.manifest.learnt) == (Learns.HELD_OUT, Learns.EVERYTHING)
    assert main(arguments("renew", data, again.directory, "--keep-weights")) == 0
    assert Release.load(again.directory).manifest.learnt is Learns.EVERYTHING


def forget(directory: Path, *, updates: dict[str, Any]) -> None:
    """Take memory and codebooks out of a release, as one of an earlier version has none.

    updates: facts of a learner to put in.
    """
    file = directory / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["memory"], manifest["files"]["neighbours.safetensors"]
    del manifest["files"]["codebooks.safetensors"]
    manifest["recipe"]["updates"] = updates
    file.write_text(json.dumps(manifest | {"format": 4}))
    (directory / "neighbours.safetensors").unlink()
    (directory / "codebooks.safetensors").unlink()


def with_views(data: Path, target: Path) -> Path:
    """The data, with every third event of the table as a view and the others as purchases."""
    shutil.copytree(data, target)
    events = pq.read_table(target / "interactions.parquet")
    types = ["purchase" if at % 3 else "view" for at in range(events.num_rows)]
    pq.write_table(events.append_column("type", [types]), target / "interactions.parquet")
    return target


def test_types_of_weight_0_are_neither_learnt_nor_counted_and_stay_in_the_history(
    trained: Release, data: Path, tmp_path: Path
) -> None:
    typed = with_views(data, tmp_path / "typed")
    recipe = tmp_path / "types.toml"
    recipe.write_text(Path("training/runs/tiny.toml").read_text() + "\n[types]\nview = 0.0\n")
    options = ["--config", str(recipe), "--to", str(tmp_path / "renewed")]
    assert main(arguments("renew", typed, trained.directory, *options)) == 0
    again, split = Release.load(tmp_path / "renewed"), split_dataset(load_dataset(typed))
    assert again.manifest.recipe["types"] == {"view": 0.0}
    bought = {event.item_id: 0 for event in all_training(load_dataset(typed))}
    for event in all_training(load_dataset(typed)):
        bought[event.item_id] += event.type == "purchase"
    counted = dict(zip(again.catalog.item_ids, again.catalog.popularity.tolist(), strict=True))
    assert {item: counted[item] for item in bought} == bought
    weights = split_dataset(load_dataset(typed), types={"view": 0.0}).weights
    memory = again.load_memory()
    assert memory is not None
    histories = training_histories(again.catalog, split)
    expected = Memory.counted(histories, memory.similar, memory.settings, weights).counts
    np.testing.assert_allclose(memory.counts.item_total_N, expected.item_total_N)
    changed = ("online.safetensors", "neighbours.safetensors")
    assert all(again.manifest.files[name] != trained.manifest.files[name] for name in changed)
    assert main(arguments("renew", typed, again.directory, "--keep-weights")) == 0
    kept = Release.load(again.directory)  # the weights of the release, without any in the recipe
    assert kept.manifest.recipe["types"] == {"view": 0.0}
    assert kept.manifest.files["neighbours.safetensors"] == again.manifest.files[changed[1]]


def all_training(dataset: Dataset) -> list[Interaction]:
    return [event for history in dataset.histories.values() for event in history[:-2]]


def test_the_memory_has_counted_the_training_split(trained: Release, data: Path) -> None:
    dataset = load_dataset(data)
    histories = training_histories(trained.catalog, split_dataset(dataset))
    settings = trained.manifest.memory
    assert settings == MemorySettings()
    memory, found = trained.load_memory(), trained.load_neighbours()
    assert memory is not None
    assert found is not None
    expected = Memory.counted(histories, memory.similar, settings).neighbours()
    assert found.first.tolist() == expected.first.tolist()
    np.testing.assert_allclose(found.weight_P, expected.weight_P, rtol=1e-6)
    assert len(found.weight_P) > 0


def test_a_folder_that_is_no_data_set_is_one_line_and_exit_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("all", tmp_path, tmp_path / "out")) == 78
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "no events, expected a file with a user and an item" in said[0]


def test_too_few_users_are_one_line_and_exit_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_slice(Path("data/beauty"), tmp_path / "few", num_users=60)
    assert main(arguments("all", few, tmp_path / "out")) == 78
    assert "60 of 60 users have three items or more, expected at least 200" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "options"),
    [("all", ["--learns", "not the test items"]), ("all", ["--to", "elsewhere"]),
     ("quantize", ["--learns", "everything"]), ("online", ["--force"]),
     ("renew", ["--keep-weights", "--learns", "everything"]),
     ("renew", ["--release", "releases/beauty"]), ("all", ["--release", "releases/beauty"])],
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(
    stage: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments(stage, tmp_path, tmp_path / "out", *options))
    assert "expected no --" in capsys.readouterr().err
