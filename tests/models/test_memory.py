"""Counts of item pairs, the neighbours made of them, and their file."""

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.errors import InvalidRelease
from models.online.memory.live_counts import LiveCounts
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from models.online.memory.pair_counts import PairCounts, pairs_of_event
from models.online.memory.similar_items import SimilarItems
from tests.fakes.toy import toy_catalog
from tests.fakes.toy_memory import SETTINGS, reasons, shares, toy_counts, toy_neighbours

NUM_ITEMS = 40
DEFAULT = MemorySettings()


def some_histories(seed: int = 0, count: int = 80) -> list[list[int]]:
    """Histories of 0 to 14 items, with repeats."""
    rng = np.random.default_rng(seed)
    return [rng.integers(NUM_ITEMS, size=rng.integers(15)).tolist() for _ in range(count)]


def assert_equal(counts: PairCounts, expected: PairCounts) -> None:
    assert counts.pair_P.tolist() == expected.pair_P.tolist()
    np.testing.assert_allclose(counts.count_P, expected.count_P)
    np.testing.assert_allclose(counts.item_total_N, expected.item_total_N)
    np.testing.assert_allclose(counts.later_total_N, expected.later_total_N)


def count(histories: list[list[int]], settings: MemorySettings = DEFAULT) -> PairCounts:
    return PairCounts.of_histories(histories, NUM_ITEMS, settings)


def test_counts_are_those_of_two_loops() -> None:
    histories, settings = some_histories(), replace(MemorySettings(), window=3, backward=0.25)
    expected: defaultdict[tuple[int, int], float] = defaultdict(float)
    for history in histories:
        for at, item in enumerate(history):
            for distance, later in enumerate(history[at + 1 : at + 4], start=1):
                expected[item, later] += 1 / distance
                expected[later, item] += 0.25 / distance
    counts = count(histories, settings)
    pairs = zip(counts.items().tolist(), counts.later_items().tolist(), strict=True)
    assert dict(zip(pairs, counts.count_P.tolist(), strict=True)) == pytest.approx(dict(expected))
    item_totals, later_totals = np.zeros(NUM_ITEMS), np.zeros(NUM_ITEMS)
    for (item, later), num in expected.items():
        item_totals[item] += num
        later_totals[later] += num
    np.testing.assert_allclose(counts.item_total_N, item_totals)
    np.testing.assert_allclose(counts.later_total_N, later_totals)


def test_a_pair_counts_as_often_as_its_later_event_weighs() -> None:
    """A learner counts so, event after event; an event of weight 0 stays in the history."""
    histories, rng = some_histories(), np.random.default_rng(1)
    weights = [rng.choice([0.0, 0.2, 1.0, 3.0], size=len(history)) for history in histories]
    live = LiveCounts.of_histories([], NUM_ITEMS, DEFAULT)
    for history, weight in zip(histories, weights, strict=True):
        for at, row in enumerate(history):
            if weight[at]:
                live.add(history[:at], row, weight[at])
    found = PairCounts.of_histories(
        histories, NUM_ITEMS, DEFAULT, [list(weight) for weight in weights]
    )
    assert_equal(found, live.memory().counts)
    ones = [[1.0] * len(history) for history in histories]
    equal = PairCounts.of_histories(histories, NUM_ITEMS, DEFAULT, ones)
    assert equal.count_P.tobytes() == count(histories).count_P.tobytes()


def test_event_after_event_counts_as_the_whole() -> None:
    settings, histories = MemorySettings(), some_histories()
    counts = count([])
    for history in histories:
        for at, row in enumerate(history):
            counts += PairCounts.of_pairs(pairs_of_event(history[:at], row, settings), NUM_ITEMS)
    assert_equal(counts, count(histories))


def test_counts_add_up() -> None:
    histories = some_histories()
    assert_equal(count(histories[:30]) + count(histories[30:]), count(histories))
    with pytest.raises(ValueError, match="counts over 40 and 3 items"):
        count([]) + PairCounts.of_histories([], 3, MemorySettings())


def test_neighbours_are_the_largest_normalised_counts() -> None:
    counts = count(some_histories())
    settings = replace(MemorySettings(), num_neighbours=5)
    neighbours = Neighbours.of(counts, settings)
    dense = np.zeros((NUM_ITEMS, NUM_ITEMS))
    dense[counts.items(), counts.later_items()] = counts.count_P
    rows, columns = dense.sum(axis=1) + 20, dense.sum(axis=0) + 20
    dense /= rows[:, None] ** 0.5 * columns**0.3
    for item in range(NUM_ITEMS):
        order = sorted(range(NUM_ITEMS), key=lambda row: (-dense[item, row], row))[:5]
        places = slice(neighbours.first[item], neighbours.first[item + 1])
        assert neighbours.neighbour_P[places].tolist() == order
        np.testing.assert_allclose(neighbours.weight_P[places], dense[item, order], rtol=1e-6)


def test_evidence_and_reasons_are_those_of_the_newest_items() -> None:
    catalog = toy_catalog()
    neighbours = toy_neighbours(catalog)
    history = [5, 9, 9, 150, 17, 9]
    rows, evidence = neighbours.evidence(np.array(history[::-1]))
    expected = {row: sum(of.values()) for row, of in enumerate(shares(neighbours, history)) if of}
    assert dict(zip(rows.tolist(), evidence.tolist(), strict=True)) == pytest.approx(expected)
    assert neighbours.reasons(np.array(history[::-1]), range(len(catalog))) == [
        reasons(neighbours, history, row) for row in range(len(catalog))
    ]
    assert len(neighbours.evidence(np.empty(0, dtype=np.int64))[0]) == 0


def test_a_full_list_of_neighbours_takes_at_most_600_bytes_an_item() -> None:
    rng = np.random.default_rng(0)
    histories = [rng.permutation(200).tolist() for _ in range(100)]
    counts = PairCounts.of_histories(histories, 200, MemorySettings())
    neighbours = Neighbours.of(counts, MemorySettings())
    assert np.diff(neighbours.first).tolist() == [MemorySettings().num_neighbours] * 200
    assert neighbours.num_bytes / 200 < 600


def some_memory() -> Memory:
    vectors = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    return Memory(toy_counts(toy_catalog()), SimilarItems.of(vectors / np.float32(9), 3), SETTINGS)


def test_what_is_written_is_read_and_counted_on(tmp_path: Path) -> None:
    memory, file = some_memory(), tmp_path / "neighbours.safetensors"
    memory.write(file)
    read = Memory.read(file, SETTINGS, 200)
    kept = memory.counts.strongest(SETTINGS)
    assert len(kept.pair_P) < len(memory.counts.pair_P)
    assert_equal(read.counts, kept)
    assert read.similar.row_NS.tolist() == memory.similar.row_NS.tolist()
    again, before = read.neighbours(), memory.neighbours()
    assert again.first.tolist() == before.first.tolist()  # order of ties may differ
    np.testing.assert_allclose(again.weight_P, before.weight_P, rtol=1e-6)
    more = read.counts + PairCounts.of_pairs(pairs_of_event([1], 2, SETTINGS), 200)
    assert math.isclose(more.item_total_N.sum(), memory.counts.item_total_N.sum() + 1.5)


def test_a_file_without_similar_items_has_none(tmp_path: Path) -> None:
    file = tmp_path / "neighbours.safetensors"
    some_memory().write(file)
    tensors = load_file(file)
    del tensors["similar"], tensors["cosine"]
    save_file(tensors, file)
    neighbours = Memory.read(file, SETTINGS, 200).neighbours()
    expected = Neighbours.of(toy_counts(toy_catalog()), SETTINGS)
    np.testing.assert_allclose(neighbours.weight_P, expected.weight_P, rtol=1e-6)


def test_similar_items_are_those_with_the_largest_cosine() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[7] = 0  # an item without text
    similar = SimilarItems.of(vectors, 4)
    for item in range(50):
        cosine = {other: float(vectors[item] @ vectors[other]) for other in range(50)}
        expected = sorted(cosine, key=lambda other: -cosine[other])
        first = [other for other in expected if other not in (item, 7)][:4]
        if item != 7:
            assert similar.row_NS[item].tolist() == first
            assert similar.cosine_NS[item] == pytest.approx([cosine[other] for other in first])
    pairs = similar.pairs(weight=0.5, power=2)
    assert 7 not in pairs.item_P
    assert 7 not in pairs.other_P
    assert pairs.weight_P[0] == pytest.approx(0.5 * similar.cosine_NS[0, 0] ** 2)


@pytest.mark.parametrize(("num_items", "expected"), [(0, 0), (1, 0), (2, 1), (3, 2)])
def test_a_small_catalog_has_fewer_similar_items(num_items: int, expected: int) -> None:
    similar = SimilarItems.of(np.eye(4, dtype=np.float32)[:num_items], 5)
    assert similar.row_NS.shape == (num_items, expected)
    assert len(similar.pairs(weight=1, power=1).item_P) == 0  # no two are alike


def test_a_neighbour_weighs_what_counts_and_text_give_it() -> None:
    settings = replace(MemorySettings(), similar_weight=0.5, similar_power=2.0, num_neighbours=3)
    counts = PairCounts.of_histories([[0, 1]], 3, settings)
    vectors = np.array([[1, 0], [0.6, 0.8], [0.8, 0.6]], dtype=np.float32)
    neighbours = Neighbours.of(counts, settings, SimilarItems.of(vectors, 2))
    counted = 1 / (21**0.5 * 21**0.3)  # the total of item 0, and that of item 1 as the later one
    assert neighbours.neighbour_P[:2].tolist() == [2, 1]
    assert neighbours.weight_P[:2].tolist() == pytest.approx([0.5 * 0.64, 0.5 * 0.36 + counted])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("first", None, "first: missing, expected int64"),
        ("first", np.zeros(201, dtype=np.int64), "first: expected 0 to"),
        ("later", np.array([3.0]), r"later: float64 \(1,\), expected int32"),
        ("later", -1, "later: expected catalog rows 0..199"),
        ("later", 0, "later: row .*, expected distinct rows, ascending"),
        ("count", np.float32("nan"), "count: expected finite"),
        ("item_total", np.zeros(3), r"item_total: float64 \(3,\), expected float64 \(200,\)"),
        ("similar", 200, "similar: expected catalog rows 0..199"),
        ("similar", None, r"similar: missing, expected int32 \(200, 0\)"),
        ("cosine", 1.5, "cosine: expected numbers from 0 to 1"),
        ("later_total", -1.0, "later_total: expected finite numbers from 0 up"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_tensor(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    """Value: the whole tensor, or the value of each element; None takes it away."""
    file = tmp_path / "neighbours.safetensors"
    some_memory().write(file)
    tensors = load_file(file)
    if isinstance(value, np.ndarray):
        tensors[name] = value
    elif value is None:
        del tensors[name]
    else:
        tensors[name] = np.full_like(tensors[name], value)
    save_file(tensors, file)
    with pytest.raises(InvalidRelease, match=rf"neighbours\.safetensors: {message}"):
        Memory.read(file, SETTINGS, 200)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "neighbours.safetensors"
    file.write_bytes(b"nothing")
    with pytest.raises(InvalidRelease, match=r"neighbours\.safetensors: "):
        Memory.read(file, SETTINGS, 200)


@pytest.mark.parametrize(
    "values",
    [
        {"window": 0},
        {"recent": 0},
        {"num_neighbours": 0},
        {"shrink": 0.0},
        {"floor": math.inf},
        {"backward": -1.0},
        {"item_power": -0.5},
        {"later_power": math.nan},
        {"scale": math.nan},
        {"decay": 1.1},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"{name} {value}, expected"):
        MemorySettings(**values)
