"""Encoding a history item by item gives the same states as encoding it whole."""

from pathlib import Path

import pytest

from models.online.best_first import NumpySearch
from models.online.finish import Finisher
from models.online.history_cache import HistoryCache, window_start
from models.online.torch_runtime import TorchRuntime
from tests.fakes.toy import toy_catalog, toy_recommender, toy_searcher

WINDOW = 50


def test_a_history_grows_to_99_items_and_begins_again_with_50() -> None:
    counted = {num: num - window_start(num, WINDOW) for num in range(260)}
    assert [counted[num] for num in (0, 1, 49, 50, 99)] == [0, 1, 49, 50, 99]
    assert [counted[num] for num in (100, 149, 150, 199, 200)] == [50, 99, 50, 99, 50]
    assert all(counted[num + 1] in (counted[num] + 1, WINDOW) for num in range(259))


@pytest.mark.parametrize("name", ["torch-float32", "onnx-float32", "native-float32"])
def test_a_grown_history_finishes_as_one_encoded_afresh(name: str, tmp_path: Path) -> None:
    """Over two windows' ends; the reference is float64, stateless."""
    catalog = toy_catalog()
    recommender = toy_recommender(catalog, scale=3.0)
    finisher = Finisher(toy_searcher(recommender, name, tmp_path), catalog)
    exact = Finisher(
        NumpySearch(TorchRuntime(toy_recommender(catalog, scale=3.0).double())), catalog
    )
    cache = HistoryCache(max_bytes=10_000_000)
    rows = [(7 * at) % len(catalog) for at in range(160)]
    for num in range(len(rows) + 1):
        state = cache.state(finisher, rows[:num])
        fresh = exact.encode(rows[window_start(num, WINDOW) : num])
        assert state.num_items == num - window_start(num, WINDOW)
        own = exact.own_prefixes(fresh, count=20)
        found, expected = finisher.finish(state, own, k=5), exact.finish(fresh, own, k=5)
        assert [item.row for item in found] == [item.row for item in expected]
        assert [item.logprob for item in found] == pytest.approx(
            [item.logprob for item in expected], abs=1e-5
        )
    assert (cache.num_encoded, cache.num_extended) == (3, 158)
    assert len(cache) == 3, "what an event made old is dropped"


class CountingEncoder(Finisher):
    def __init__(self) -> None:
        catalog = toy_catalog()
        super().__init__(NumpySearch(TorchRuntime(toy_recommender(catalog))), catalog)


def test_a_known_history_costs_nothing_and_the_least_recently_used_goes_first() -> None:
    encoder = CountingEncoder()
    size = encoder.encode([1, 2]).num_bytes
    cache = HistoryCache(max_bytes=2 * size)
    first = cache.state(encoder, [1, 2])
    cache.state(encoder, [3, 4])
    assert cache.state(encoder, [1, 2]) is first
    cache.state(encoder, [5, 6])
    assert (len(cache), cache.num_bytes) == (2, 2 * size)
    assert cache.state(encoder, [1, 2]) is first
    assert cache.num_encoded == 3
    cache.state(encoder, [3, 4])
    assert cache.num_encoded == 4


def test_a_cache_of_no_bytes_still_answers() -> None:
    cache = HistoryCache(max_bytes=0)
    state = cache.state(CountingEncoder(), [1])
    assert (state.num_items, len(cache), cache.num_bytes) == (1, 0, 0)


def test_a_history_of_two_windows_is_not_encoded_whole() -> None:
    encoder = CountingEncoder()
    assert encoder.encode(range(99)).num_items == 99
    with pytest.raises(ValueError, match="100 items, expected below 100"):
        encoder.encode(range(100))
    with pytest.raises(ValueError, match="100 items"):
        encoder.extend(encoder.encode(range(99)), [1])
