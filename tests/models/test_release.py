"""Releases: a published one loads, an altered one does not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from models.catalog.catalog import Catalog, popular_items, popular_prefixes
from models.errors import InvalidRelease, ReleaseMismatch
from models.online.build_kernel import built_library
from models.online.memory.memory_settings import MemorySettings
from models.online.torch_runtime import load_recommender
from models.release.live import LiveFolder
from models.release.release import Release
from models.release.release_files import digest
from models.release.searchers import load_finisher, load_searcher
from tests.fakes.file_modes import modes_in, umask
from tests.fakes.toy import toy_catalog, toy_memory, toy_recommender, toy_release


@pytest.fixture
def copy(release: Release, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release.directory, tmp_path / "toy"))


def test_a_published_release_loads_equal(release: Release) -> None:
    loaded = Release.load(release.directory)
    assert (loaded.name, loaded.version) == ("toy", release.version)
    assert loaded.catalog.item_ids == toy_catalog().item_ids
    expected = toy_recommender(toy_catalog()).state_dict()
    weights = load_recommender(loaded.directory, loaded.recommender_config).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert all(loaded.catalog.trie.contains(prefix) for prefix in loaded.global_prefixes)
    assert all(loaded.catalog.row(item) is not None for item in loaded.popular)


def test_publishing_again_replaces_and_leaves_no_draft(release: Release, copy: Path) -> None:
    again = toy_release(copy)
    assert again.version == release.version
    assert [path.name for path in copy.parent.glob("*.draft")] == []


@pytest.mark.parametrize(
    ("mask", "modes"), [(0o022, ({"0644"}, {"0755"})), (0o027, ({"0640"}, {"0750"}))]
)
def test_a_published_release_can_be_read_as_far_as_the_umask_allows(
    tmp_path: Path, mask: int, modes: tuple[set[str], set[str]]
) -> None:
    """safetensors writes with mode 0600, and the user of a service could not read a release."""
    with umask(mask):
        release = toy_release(tmp_path / "toy")
        folder = LiveFolder(tmp_path / "live")
        base = folder.publish_base(release.directory)
    assert modes_in(release.directory) == modes
    assert modes_in(base.directory) == modes


@pytest.mark.parametrize(
    "name",
    [
        "online.safetensors",
        "neighbours.safetensors",
        "extend.onnx",
        "catalog.parquet",
        "reasoner/model.safetensors",
        "README.md",
    ],
)
def test_a_flipped_byte_anywhere_is_refused(copy: Path, name: str) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(InvalidRelease, match=rf"{name}: SHA-256 .*, expected"):
        Release.load(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "online.safetensors").unlink()
    with pytest.raises(InvalidRelease, match=r"online\.safetensors: missing"):
        Release.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99, expected 1"),
        ({"surprise": 1}, "surprise"),
        ({"name": None}, "name"),
        ({"memory": {"floor": 0}}, "memory: Value error, floor 0"),
        ({"memory": {"flor": 1}}, r"memory\.flor"),
        ({"memory": None}, "expected both or neither"),
    ],
)
def test_a_manifest_of_another_form_is_refused(
    copy: Path, change: dict[str, object], message: str
) -> None:
    file = copy / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InvalidRelease, match=message):
        Release.load(copy)


def test_a_path_that_leaves_the_release_is_refused(copy: Path) -> None:
    file = copy / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["../outside"] = "0" * 64
    file.write_text(json.dumps(manifest))
    with pytest.raises(InvalidRelease, match="expected a path inside"):
        Release.load(copy)


def test_another_sid_space_is_a_mismatch(copy: Path) -> None:
    file = copy / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["space"]["codebook"] = "another"
    file.write_text(json.dumps(manifest))
    with pytest.raises(ReleaseMismatch, match="fingerprint"):
        Release.load(copy)


def test_no_release_at_all_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidRelease, match=r"manifest\.json: cannot be read") as caught:
        Release.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_popularity_ranks_items_and_prefixes_as_counting_does() -> None:
    catalog: Catalog = toy_catalog()
    weight: dict[tuple[int, ...], int] = {}
    for sid, count in zip(catalog.sids.tolist(), catalog.popularity.tolist(), strict=True):
        weight[tuple(sid[:2])] = weight.get(tuple(sid[:2]), 0) + count
    found = popular_prefixes(catalog, 10)
    assert [weight[prefix] for prefix in found] == sorted(weight.values(), reverse=True)[:10]
    counts = dict(zip(catalog.item_ids, catalog.popularity.tolist(), strict=True))
    best = [counts[item] for item in popular_items(catalog, 10)]
    assert best == sorted(counts.values(), reverse=True)[:10]


def edit_manifest(directory: Path, **changes: object) -> None:
    file = directory / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_release_names_the_precisions_it_was_judged_at(release: Release) -> None:
    judged = release.manifest.precisions
    native = set() if built_library() is None else {"native-float32"}
    assert set(judged) == {"onnx-float32", "torch-float32", "torch-bfloat16"} | native
    assert judged["onnx-float32"].overlap > 0.99
    assert (
        judged["onnx-float32"].max_abs_difference
        < 1e-3
        < judged["torch-bfloat16"].max_abs_difference
    )
    assert load_searcher(release, "torch-float32").precision == "torch-float32"


def test_a_precision_that_keeps_too_little_of_the_top_ten_is_refused(copy: Path) -> None:
    poor = {"overlap": 0.984, "max_abs_difference": 0.06, "users": 1000}
    edit_manifest(copy, precisions={"torch-bfloat16": poor})
    release = Release.load(copy)
    with pytest.raises(InvalidRelease, match=r"torch-bfloat16 keeps 98\.4% .* at least 99%"):
        load_searcher(release, "torch-bfloat16")
    with pytest.raises(InvalidRelease, match="not validated at onnx-float32"):
        load_searcher(release)


def test_a_release_of_the_first_format_is_read_but_not_served(copy: Path) -> None:
    edit_manifest(copy, format=1, precisions={})
    release = Release.load(copy)
    assert release.catalog.item_ids == toy_catalog().item_ids
    with pytest.raises(InvalidRelease, match="training renew"):
        load_searcher(release)


def test_the_memory_comes_with_the_release(release: Release) -> None:
    settings = release.manifest.memory
    assert settings == MemorySettings()
    expected = toy_memory(release.catalog).neighbours()
    found = release.load_neighbours()
    assert found is not None
    assert found.first.tolist() == expected.first.tolist()
    np.testing.assert_allclose(found.weight_P, expected.weight_P, rtol=1e-6)
    assert load_finisher(release).encode([1, 2, 3]).recent.tolist() == [3, 2, 1]


def test_a_release_without_a_memory_is_served_without_a_bonus(copy: Path) -> None:
    (copy / "neighbours.safetensors").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["memory"], manifest["files"]["neighbours.safetensors"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    finisher = load_finisher(Release.load(copy))
    state = finisher.encode([1, 2, 3])
    found = finisher.finish(state, finisher.own_prefixes(state, count=20), k=10)
    assert [(item.score, item.because) for item in found] == [(item.logprob, ()) for item in found]


def test_a_memory_of_another_form_is_refused(copy: Path) -> None:
    file = copy / "neighbours.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"count": -tensors["count"]}, file)
    manifest = json.loads((copy / "manifest.json").read_text())
    edit_manifest(copy, files=manifest["files"] | {file.name: digest(file)})
    with pytest.raises(InvalidRelease, match=r"neighbours\.safetensors: count: expected finite"):
        load_finisher(Release.load(copy))


def test_the_graph_holds_no_weights_of_its_own(release: Release) -> None:
    assert (release.directory / "extend.onnx").stat().st_size < 20_000
