"""Counts that grow by events and items, against counts of everything from the beginning."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from models.online.memory.live_counts import LiveCounts
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from models.online.memory.pair_counts import PairCounts, sum_at
from models.online.memory.similar_items import SimilarItems

NUM_ITEMS = 30
SETTINGS = MemorySettings(window=4, num_neighbours=12, num_similar=3)


def some_histories(num_items: int = NUM_ITEMS, *, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(num_items, size=rng.integers(2, 12)).tolist() for _ in range(60)]


def some_similar(num_items: int = NUM_ITEMS, *, seed: int = 0) -> SimilarItems:
    vectors = np.random.default_rng(seed).normal(size=(num_items, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return SimilarItems.of(vectors, SETTINGS.num_similar)


def counted(histories: Sequence[Sequence[int]], similar: SimilarItems) -> Memory:
    return Memory.counted(histories, similar, SETTINGS)


def grown_by_events(similar: SimilarItems) -> LiveCounts:
    """Count the first three items of each history at once, and the others as events."""
    histories = some_histories()
    counts = LiveCounts.of_memory(counted([items[:3] for items in histories], similar))
    for items in histories:
        for at in range(3, len(items)):
            counts.add(items[:at], items[at])
    return counts


def lists(neighbours: Neighbours) -> list[dict[int, float]]:
    bounds = zip(neighbours.first, neighbours.first[1:], strict=False)
    return [
        dict(
            zip(
                neighbours.neighbour_P[low:high].tolist(),
                neighbours.weight_P[low:high].tolist(),
                strict=True,
            )
        )
        for low, high in bounds
    ]


def assert_same_counts(counts: PairCounts, expected: PairCounts) -> None:
    assert counts.pair_P.tolist() == expected.pair_P.tolist()
    for name in ("count_P", "item_total_N", "later_total_N"):
        found, wanted = getattr(counts, name), getattr(expected, name)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


def test_counts_and_neighbours_are_those_of_a_recount() -> None:
    similar = some_similar()
    live, anew = grown_by_events(similar), counted(some_histories(), similar)
    assert_same_counts(live.memory().counts, anew.counts)
    for found, expected in zip(lists(live.neighbours()), lists(anew.neighbours()), strict=True):
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_lists_of_some_rows_are_those_of_all() -> None:
    counts = grown_by_events(some_similar())
    asked = counts.neighbours_of([9, 2, 17])
    assert asked.row_R.tolist() == [2, 9, 17]
    whole = counts.neighbours()
    for place, row in enumerate((2, 9, 17)):
        own, of_all = (slice(first[at], first[at + 1]) for first, at in (
            (asked.first, place), (whole.first, row),
        ))  # fmt: skip
        assert asked.neighbour_P[own].tolist() == whole.neighbour_P[of_all].tolist()
        assert asked.weight_P[own].tolist() == whole.weight_P[of_all].tolist()


def test_touched_rows_are_those_whose_pairs_grew() -> None:
    counts = LiveCounts.of_histories([], NUM_ITEMS, SETTINGS)
    counts.add([1, 2, 3, 4, 5], 6)  # window 4: item 1 is too far back
    assert counts.touched().tolist() == [2, 3, 4, 5, 6]
    counts.settle()
    assert counts.touched().tolist() == []


def test_an_event_may_weigh_less() -> None:
    whole, half = (LiveCounts.of_histories([], NUM_ITEMS, SETTINGS) for _ in range(2))
    whole.add([1, 2], 3)
    half.add([1, 2], 3, 0.25)
    assert (half.memory().counts.count_P * 4).tolist() == whole.memory().counts.count_P.tolist()


def moved(histories: Sequence[Sequence[int]], row_of_old: NDArray[np.int64]) -> list[list[int]]:
    return [row_of_old[history].tolist() for history in histories]


def dense(histories: Sequence[Sequence[int]], num_items: int) -> NDArray[np.float64]:
    return as_dense(PairCounts.of_histories(histories, num_items, SETTINGS))


def as_dense(counts: PairCounts) -> NDArray[np.float64]:
    return sum_at(counts.pair_P, counts.count_P, counts.num_items**2)


def test_counts_of_a_grown_catalog_are_those_of_a_recount_over_its_rows() -> None:
    """Three new items, among the old rows; events go on."""
    num = NUM_ITEMS + 3
    row_of_old = np.delete(np.arange(num), [0, 7, 20])
    counts = grown_by_events(some_similar()).grow(row_of_old, some_similar(num, seed=1))
    assert {0, 7, 20} <= set(counts.touched().tolist())
    counts.add([5, 6], 7)
    moved = [row_of_old[history].tolist() for history in some_histories()]
    expected = dense(moved, num) + dense([[5, 6, 7]], num) - dense([[5, 6]], num)
    np.testing.assert_allclose(as_dense(counts.memory().counts), expected, rtol=0, atol=1e-9)


def test_a_withdrawn_item_is_nobodys_neighbour() -> None:
    row_of_old = np.arange(NUM_ITEMS) - 1  # row 0 leaves
    counts = grown_by_events(some_similar()).grow(row_of_old, some_similar(NUM_ITEMS - 1))
    expected = [
        (item, later)
        for item, later in moved_pairs(counted(some_histories(), some_similar()).counts)
        if item >= 0 and later >= 0
    ]
    assert list(moved_pairs(counts.memory().counts, by=0)) == expected


def moved_pairs(counts: PairCounts, *, by: int = -1) -> list[tuple[int, int]]:
    pairs = zip(counts.items().tolist(), counts.later_items().tolist(), strict=True)
    return [(item + by, later + by) for item, later in pairs]


def test_moved_neighbours_are_the_same_items() -> None:
    old = grown_by_events(some_similar()).neighbours()
    row_of_old = np.random.default_rng(1).permutation(NUM_ITEMS + 2)[:NUM_ITEMS]
    row_of_old[7] = -1
    place = row_of_old.tolist()
    expected: list[dict[int, float]] = [{} for _ in range(NUM_ITEMS + 2)]
    for item, found in enumerate(lists(old)):
        if item != 7:
            kept = {place[other]: weight for other, weight in found.items() if other != 7}
            expected[place[item]] = kept
    moved = old.moved(row_of_old, NUM_ITEMS + 2)
    assert lists(moved) == expected
    assert [list(each) for each in lists(moved)] == [list(each) for each in expected]  # in order


def test_a_restored_state_goes_on_bit_for_bit() -> None:
    counts = grown_by_events(some_similar())
    restored = LiveCounts.from_arrays(counts.arrays(), SETTINGS)
    for each in (counts, restored):
        each.add([3, 4], 5, 0.3)
    for name, array in counts.arrays().items():
        assert array.tobytes() == restored.arrays()[name].tobytes(), name
