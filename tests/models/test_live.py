"""Live folders: deltas in a chain, the pointer, and what a service loads from them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from models.errors import InvalidRelease, ManifestConflict
from models.online.finish import Finisher, Scored
from models.online.memory.neighbours import Neighbours
from models.release.delta import (
    CountsDelta,
    Delta,
    apply_weights,
    between,
    check_delta,
    read_delta,
)
from models.release.live import (
    LiveFolder,
    LiveRelease,
    advance,
    load_live,
    resolve_release,
)
from models.release.release import Release
from models.release.searchers import load_live_finisher
from models.store.model_pointer import LiveVersion
from tests.fakes.toy import toy_histories
from tests.fakes.toy_live import (
    add_toy_deltas,
    counts_delta,
    header,
    other_weights,
    pointer_to,
    weights_delta,
)

PRECISIONS = ["native-float32", "onnx-float32", "torch-float32"]


@pytest.fixture
def folder(release: Release, tmp_path: Path) -> LiveFolder:
    """A live folder with the toy release as its base."""
    folder = LiveFolder(tmp_path / "live")
    folder.publish_base(release.directory)
    return folder


@pytest.fixture
def live(release: Release, folder: LiveFolder) -> LiveRelease:
    return load_live(folder, LiveVersion(release.version, 0, ""))


def answers(finisher: Finisher, live: LiveRelease) -> list[list[Scored]]:
    found = []
    for history in toy_histories(live.release.catalog, num_users=6):
        state = finisher.encode(history)
        found.append(finisher.finish(state, finisher.own_prefixes(state, count=20), k=10))
    return found


def lists(neighbours: Neighbours) -> list[list[tuple[int, float]]]:
    bounds = zip(neighbours.first[:-1].tolist(), neighbours.first[1:].tolist(), strict=True)
    rows, weights = neighbours.neighbour_P.tolist(), neighbours.weight_P.tolist()
    return [list(zip(rows[lo:hi], weights[lo:hi], strict=True)) for lo, hi in bounds]


@pytest.mark.parametrize("num_rows", [0, 1, 7, 200])
def test_patched_neighbours_have_the_new_lists_and_the_old_ones(
    live: LiveRelease, num_rows: int
) -> None:
    neighbours = live.neighbours
    assert neighbours is not None
    before = lists(neighbours)
    counts = (
        counts_delta(neighbours, num_rows=num_rows)
        if num_rows
        else CountsDelta(
            np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, "f4")
        )
    )
    expected = list(before)
    for at, row in enumerate(counts.row_R.tolist()):
        new = slice(counts.first[at], counts.first[at + 1])
        pairs = zip(counts.neighbour_P[new].tolist(), counts.weight_P[new].tolist(), strict=True)
        expected[row] = list(pairs)
    patched = neighbours.patched(*counts)
    assert lists(patched) == expected
    assert lists(neighbours) == before
    assert patched.neighbour_P.dtype == np.dtype(np.int32)
    assert patched.weight_P.dtype == np.dtype(np.float32)


def test_a_delta_read_back_is_the_delta_written(live: LiveRelease, tmp_path: Path) -> None:
    assert live.neighbours is not None
    delta = Delta(header(live.version), counts_delta(live.neighbours), weights_delta(live))
    sha256 = delta.write(tmp_path / "one.safetensors")
    read = read_delta(tmp_path / "one.safetensors", base=live.version.base, number=1, parent="")
    assert read.sha256 == sha256
    assert read.delta.encode() == delta.encode()
    assert [file.name for file in tmp_path.iterdir() if "one" in file.name] == ["one.safetensors"]


def test_what_lies_between_two_weights_leads_from_one_to_the_other(live: LiveRelease) -> None:
    new = other_weights(live.weights)
    delta = between(live.weights, new)
    assert all(len(changed.row_R) == 5 for changed in delta.rows.values())
    assert set(delta.rows) == {name for name in new if "embeddings" in name and "known" not in name}
    before = {name: value.copy() for name, value in live.weights.items()}
    made = apply_weights(live.weights, delta)
    for name, value in new.items():
        np.testing.assert_array_equal(made[name], value)
        np.testing.assert_array_equal(live.weights[name], before[name])
    assert between(new, new) == ({}, {})


def test_a_grown_model_is_no_delta(live: LiveRelease) -> None:
    new = dict(live.weights)
    new["node_embeddings.0.own.weight"] = np.zeros((999, 32), dtype=np.float32)
    with pytest.raises(ValueError, match=r"node_embeddings\.0\.own\.weight: .*999"):
        between(live.weights, new)
    with pytest.raises(ValueError, match="in one model only"):
        between(live.weights, new | {"more": np.zeros(1)})


def test_deltas_applied_one_by_one_equal_a_fresh_load(
    live: LiveRelease, folder: LiveFolder
) -> None:
    step = live
    for kinds, expected in (("c", "counts"), ("w", "weights"), ("ccbc", "weights")):
        version = add_toy_deltas(folder, step, kinds, seed=step.version.deltas)
        step, changed = advance(step, folder, version)
        assert changed == expected
    fresh = load_live(folder, version)
    assert step.version == fresh.version == version
    assert fresh.label == f"toy@{version.base}+6"
    assert step.watermark == fresh.watermark == "6-0"
    assert step.neighbours is not None
    assert fresh.neighbours is not None
    assert lists(step.neighbours) == lists(fresh.neighbours)
    for name, value in fresh.weights.items():
        np.testing.assert_array_equal(step.weights[name], value)
    assert advance(step, folder, version) == (step, "nothing")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_runtime_serves_the_weights_and_counts_of_the_deltas(
    precision: str, live: LiveRelease, folder: LiveFolder
) -> None:
    version = add_toy_deltas(folder, live, "bcw")
    moved = advance(live, folder, version).live
    found = answers(load_live_finisher(moved, precision), moved)
    assert found == answers(load_live_finisher(load_live(folder, version), precision), moved)
    assert found != answers(load_live_finisher(live, precision), live)
    reference = answers(load_live_finisher(moved, "torch-float32"), moved)
    for ours, theirs in zip(found, reference, strict=True):
        assert [item.row for item in ours] == [item.row for item in theirs]
        np.testing.assert_allclose(
            [item.score for item in ours], [item.score for item in theirs], atol=1e-3
        )


@pytest.mark.parametrize("precision", ["native-float32", "onnx-float32"])
def test_another_memory_serves_the_histories_encoded_before(
    precision: str, live: LiveRelease, folder: LiveFolder
) -> None:
    finisher = load_live_finisher(live, precision)
    histories = toy_histories(live.release.catalog, num_users=6)
    states = [finisher.encode(history) for history in histories]
    trees = [finisher.own_prefixes(state, count=20) for state in states]
    moved = advance(live, folder, add_toy_deltas(folder, live, "c")).live
    assert moved.neighbours is not None
    after = finisher.remembering(moved.neighbours)
    fresh = load_live_finisher(moved, precision)
    for history, state, tree in zip(histories, states, trees, strict=True):
        expected = fresh.finish(
            fresh.encode(history), fresh.candidates(prefixes(fresh, tree)), k=10
        )
        assert after.finish(state, tree, k=10) == expected


def prefixes(finisher: Finisher, tree) -> list[tuple[int, ...]]:  # type: ignore[no-untyped-def]
    nodes: NDArray[np.int64] = tree.prefix_nodes
    return [tuple(codes) for codes in tree.trie.prefixes()[nodes].tolist()]


def write_delta(live: LiveRelease, file: Path, **changes: object) -> None:
    assert live.neighbours is not None
    delta = Delta(header(live.version), counts_delta(live.neighbours), weights_delta(live))
    raw = delta.encode()
    tensors = load(raw)
    for name, value in changes.items():
        name = name.replace("__", ":").replace("_dot_", ".")
        tensors[name] = value(tensors[name])  # type: ignore[operator]
    file.write_bytes(save(tensors, {"delta": delta.header.model_dump_json()}))


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"base": "0" * 12}, "base [0-9a-f]{12}, expected 0{12}"),
        ({"number": 2}, "number 1, expected 2"),
        ({"parent": "a" * 64}, "parent none, expected a{64}"),
    ],
)
def test_a_delta_of_another_place_is_refused(
    live: LiveRelease, tmp_path: Path, expected: dict[str, object], message: str
) -> None:
    file = tmp_path / "000001.safetensors"
    write_delta(live, file)
    place: dict[str, object] = {"base": live.version.base, "number": 1, "parent": ""} | expected
    with pytest.raises(InvalidRelease, match=message) as caught:
        read_delta(file, **place)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dense__start", lambda x: x[:-1], r"start: float32 \(31,\), the release has"),
        ("dense__start", lambda x: x.astype(np.float64), "dense:start: float64"),
        ("dense__start", lambda x: x * np.float32(np.nan), "dense:start: expected finite"),
        ("dense__norm_dot_bias", lambda x: x + np.float32(np.inf), "norm.bias: expected finite"),
        ("row__code_embeddings_dot_0_dot_weight", lambda x: x + 99, r"row \d+, expected 0\.\.7"),
        ("row__code_embeddings_dot_0_dot_weight", lambda x: x[::-1].copy(), "ascending"),
        ("row__code_embeddings_dot_0_dot_weight", lambda x: x.astype(np.int32), "int32"),
        ("row__code_embeddings_dot_0_dot_weight", lambda x: x[1:], "4 rows, 5 of values"),
        ("values__code_embeddings_dot_0_dot_weight", lambda x: x[:, 1:].copy(), "rows of"),
        ("counts_dot_row", lambda x: x + 10_000, r"counts.row: expected catalog rows 0\.\.199"),
        ("counts_dot_row", lambda x: x - 10_000, "from 0 up"),
        ("counts_dot_neighbour", lambda x: x - 300, r"counts.neighbour: expected catalog rows"),
        ("counts_dot_neighbour", lambda x: x * 0, "a neighbour twice"),
        ("counts_dot_weight", lambda x: -x, "counts.weight: expected numbers above 0"),
        ("counts_dot_weight", lambda x: x[1:], "lengths"),
        ("counts_dot_first", lambda x: x[::-1].copy(), "counts.first: expected 0 to"),
        ("counts_dot_first", lambda x: x.astype(np.int32), "counts.first: int32"),
    ],
)
def test_a_delta_of_another_form_is_refused_in_one_line(
    live: LiveRelease, tmp_path: Path, name: str, change: object, message: str
) -> None:
    file = tmp_path / "000001.safetensors"
    write_delta(live, file, **{name: change})
    with pytest.raises(InvalidRelease, match=message) as caught:
        read_and_check(file, live)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def read_and_check(file: Path, live: LiveRelease) -> None:
    read = read_delta(file, base=live.version.base, number=1, parent="")
    check_delta(file, read.delta, live.weights, num_items=200, num_neighbours=64)


def test_a_row_of_unknown_nodes_stays_zero(live: LiveRelease, tmp_path: Path) -> None:
    new = {name: value.copy() for name, value in live.weights.items()}
    new["node_embeddings.1.own.weight"][-1] = 1
    delta = Delta(header(live.version), None, between(live.weights, new))
    with pytest.raises(InvalidRelease, match=r"node_embeddings\.1\.own\.weight: row"):
        check_delta(tmp_path, delta, live.weights, num_items=200, num_neighbours=64)


def test_bytes_that_are_no_delta_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "000001.safetensors"
    place = {"base": "0" * 12, "number": 1, "parent": ""}
    with pytest.raises(InvalidRelease, match="cannot be read"):
        read_delta(file, **place)  # type: ignore[arg-type]
    for raw in (b"", b"x" * 100, save({"start": np.zeros(3, np.float32)})):
        file.write_bytes(raw)
        with pytest.raises(InvalidRelease, match="not a delta"):
            read_delta(file, **place)  # type: ignore[arg-type]
    file.write_bytes(save({}, {"delta": json.dumps({"base": "short"})}))
    with pytest.raises(InvalidRelease, match="header: base"):
        read_delta(file, **place)  # type: ignore[arg-type]


def test_a_delta_must_follow_the_one_before_it(live: LiveRelease, folder: LiveFolder) -> None:
    version = add_toy_deltas(folder, live, "c")
    again = Delta(header(live.version._replace(deltas=1)), None, weights_delta(live))
    with pytest.raises(InvalidRelease, match=r"000002\.safetensors: parent none, expected"):
        folder.add_delta(again)
    with pytest.raises(InvalidRelease, match=r"000002\.safetensors: no such delta, .* has 1"):
        folder.add_delta(Delta(header(version._replace(deltas=2)), None, weights_delta(live)))
    assert folder.num_deltas(version.base) == 1


def test_the_pointer_names_what_is_there_and_its_epoch_rises(
    live: LiveRelease, folder: LiveFolder
) -> None:
    assert folder.pointer() is None
    version = add_toy_deltas(folder, live, "cc")
    folder.move(pointer_to(version, epoch=1))
    assert folder.pointer() == pointer_to(version, epoch=1)
    with pytest.raises(ManifestConflict, match="epoch 1, expected above 1"):
        folder.move(pointer_to(live.version, epoch=1))
    with pytest.raises(InvalidRelease, match="no such delta"):
        folder.move(pointer_to(version._replace(deltas=3), epoch=2))
    with pytest.raises(InvalidRelease, match="another SHA-256"):
        folder.move(pointer_to(version._replace(sha256="a" * 64), epoch=2))
    with pytest.raises(InvalidRelease, match="no such base"):
        folder.move(pointer_to(LiveVersion("0" * 12, 0, ""), epoch=2))
    assert folder.pointer() == pointer_to(version, epoch=1)


def test_a_torn_pointer_is_one_line(folder: LiveFolder) -> None:
    (folder.path / "pointer.json").write_text('{"epoch": 1,')
    with pytest.raises(InvalidRelease, match=r"pointer\.json: "):
        folder.pointer()


def test_a_rollback_and_what_is_learnt_after_it(live: LiveRelease, folder: LiveFolder) -> None:
    newest = add_toy_deltas(folder, live, "cbb")
    folder.move(pointer_to(newest, epoch=1))
    ahead = load_live(folder, newest)
    with pytest.raises(InvalidRelease, match="the pointer names delta 3"):
        folder.add_delta(Delta(header(folder.version(newest.base, 1)), None, weights_delta(live)))
    back = folder.version(newest.base, 1)
    folder.move(pointer_to(back, epoch=2))
    rolled, changed = advance(ahead, folder, back)
    assert changed == "weights"
    for name, value in live.weights.items():
        np.testing.assert_array_equal(rolled.weights[name], value)
    other = folder.add_delta(Delta(header(back), None, weights_delta(live, seed=9)))
    assert folder.num_deltas(newest.base) == 2
    assert advance(rolled, folder, other).live.version == other
    # A process that slept through the rollback holds a chain that is no more.
    asleep = advance(ahead, folder, other).live
    for name, value in load_live(folder, other).weights.items():
        np.testing.assert_array_equal(asleep.weights[name], value)


def test_a_delta_that_was_altered_is_refused_and_the_old_version_stays_whole(
    live: LiveRelease, folder: LiveFolder
) -> None:
    version = add_toy_deltas(folder, live, "cw")
    before = answers(load_live_finisher(live), live)
    file = folder.delta_file(version.base, 2)
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    with pytest.raises(InvalidRelease, match=r"000002\.safetensors: SHA-256 .*, expected"):
        advance(live, folder, version)
    with pytest.raises(InvalidRelease, match=r"000002\.safetensors: SHA-256 .*, expected"):
        load_live(folder, version)
    assert answers(load_live_finisher(live), live) == before


def test_counts_on_a_base_without_a_memory_are_refused(live: LiveRelease, tmp_path: Path) -> None:
    assert live.neighbours is not None
    delta = Delta(header(live.version), counts_delta(live.neighbours), None)
    with pytest.raises(InvalidRelease, match="without a memory"):
        check_delta(tmp_path, delta, live.weights, num_items=200, num_neighbours=0)


def test_a_base_is_published_once_and_old_ones_leave(
    release: Release, live: LiveRelease, folder: LiveFolder, tmp_path: Path
) -> None:
    versions = [release.version]
    for number in range(3):
        other = Path(shutil.copytree(release.directory, tmp_path / f"other-{number}"))
        text = (release.directory / "manifest.json").read_text()
        (other / "manifest.json").write_text(
            text.replace('"name": "toy"', f'"name": "toy-{number}"')
        )
        versions.append(folder.publish_base(other).version)
    assert folder.publish_base(tmp_path / "other-0").version == versions[1]
    weights = [folder.base_dir(base) / "reasoner/model.safetensors" for base in versions]
    assert len({file.stat().st_ino for file in weights}) == 1  # there once
    theirs = release.directory / "reasoner/model.safetensors"
    assert not weights[0].samefile(theirs)  # who changes it in place changes no base
    assert folder.bases()[:2] == [versions[1], versions[3]]
    version = add_toy_deltas(folder, live, "c")
    folder.move(pointer_to(version, epoch=1))
    assert sorted(folder.keep(1)) == sorted(versions[2:])
    assert sorted(folder.bases()) == sorted(versions[:2])
    assert folder.num_deltas(release.version) == 1
    moved, changed = advance(live, folder, LiveVersion(versions[1], 0, ""))
    assert (changed, moved.label) == ("base", f"toy-0@{versions[1]}")


def test_a_base_that_a_reader_holds_stays_for_a_day(
    release: Release, live: LiveRelease, folder: LiveFolder, tmp_path: Path
) -> None:
    folder.move(pointer_to(live.version, epoch=1))
    assert resolve_release(folder.path) == folder.base_dir(release.version)
    other = Path(shutil.copytree(release.directory, tmp_path / "other"))
    text = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(text.replace('"name": "toy"', '"name": "other"'))
    folder.move(pointer_to(LiveVersion(folder.publish_base(other).version, 0, ""), epoch=2))
    assert folder.keep(1) == []
    (mark,) = (folder.path / "readers").iterdir()
    yesterday = mark.stat().st_mtime - 24 * 3600
    os.utime(mark, (yesterday, yesterday))
    assert folder.keep(1) == [release.version]
    assert not mark.exists()


def test_a_live_folder_stands_for_the_base_of_its_pointer(
    release: Release, live: LiveRelease, folder: LiveFolder
) -> None:
    assert resolve_release(release.directory) == release.directory
    assert resolve_release(folder.path) == folder.path
    folder.move(pointer_to(live.version, epoch=1))
    assert Release.load(resolve_release(folder.path)).version == release.version
