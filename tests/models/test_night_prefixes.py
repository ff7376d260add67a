"""C_u from all sources: against a plain sum over every prefix of the catalog."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.catalog.catalog import Catalog
from models.night.night_items import EVIDENCE, NightItems
from models.night.night_prefixes import NightPrefixes, PrefixWeights
from models.night.ridge import fit_night_items
from models.online.finish import Finisher
from models.online.memory.neighbours import Neighbours
from models.reasoner.think import PathPrefix
from tests.fakes.toy import toy_catalog, toy_histories, toy_recommender, toy_searcher
from tests.fakes.toy_memory import bonuses
from tests.models.test_finish import brute_force
from tests.models.test_finish_memory import remembering

WEIGHTS = PrefixWeights(model=0.5, memory=0.3, items=0.2, thoughts=0.4, floor=0.01)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog(num_items=120)


@pytest.fixture(scope="module")
def night(catalog: Catalog) -> NightItems:
    return fit_night_items(toy_histories(catalog, num_users=150, seed=3), catalog)


def some_thoughts(catalog: Catalog, seed: int) -> list[PathPrefix]:
    rng = np.random.default_rng(seed)
    codes = rng.permutation(catalog.trie.prefixes())[:6].tolist()
    return [PathPrefix(tuple(each), at % 3, -0.7 * at, 1) for at, each in enumerate(codes)]


def plain_scores(
    catalog: Catalog,
    neighbours: Neighbours,
    night: NightItems,
    history: list[int],
    thoughts: list[PathPrefix],
) -> dict[tuple[int, ...], float]:
    """Weigh every prefix of the catalog, item by item."""
    with torch.inference_mode():
        logprobs = brute_force(toy_recommender(catalog).double(), catalog, history, depth=2)
    found = night.find(history, num=len(catalog), exclude=history)
    lift = dict(zip(found.row_R.tolist(), found.bonus_R.tolist(), strict=True))
    of_prefix: dict[tuple[int, ...], tuple[float, float, float]] = {}
    added = bonuses(neighbours, history)
    for row, codes in enumerate(map(tuple, catalog.sids[:, :2].tolist())):
        _, memory, item = of_prefix.get(codes, (0.0, 0.0, 0.0))
        of_prefix[codes] = logprobs[row], max(memory, added[row]), max(item, lift.get(row, 0.0))
    prob = {prefix.codes: math.exp(prefix.logprob) for prefix in thoughts}
    return {
        codes: 0.5 * logprob + 0.3 * memory + 0.2 * item
        + 0.4 * math.log(1 + prob.get(codes, 0.0) / 0.01)
        for codes, (logprob, memory, item) in of_prefix.items()
    }  # fmt: skip


def test_the_best_prefixes_have_the_largest_weighted_sums(
    catalog: Catalog, night: NightItems, tmp_path: Path
) -> None:
    finisher, neighbours = remembering("torch-float64", catalog, tmp_path)
    chooser = NightPrefixes(finisher, night, WEIGHTS)
    num_without_path = 0
    for seed, history in enumerate(toy_histories(catalog, num_users=5)):
        thoughts = some_thoughts(catalog, seed)
        scores = plain_scores(catalog, neighbours, night, history, thoughts)
        best = sorted(scores, key=lambda codes: (-round(scores[codes], 9), codes))[:8]
        found = chooser.choose(history, thoughts, num=8)
        assert [prefix.codes for prefix in found] == best
        total = math.log(sum(map(math.exp, scores.values())))
        assert [prefix.logprob for prefix in found] == pytest.approx(
            [scores[codes] - total for codes in best], abs=1e-6
        )
        path_of = {prefix.codes: prefix.path for prefix in thoughts}
        assert [prefix.path for prefix in found] == [path_of.get(codes) for codes in best]
        num_without_path += sum(prefix.path is None for prefix in found)
    assert 0 < num_without_path < 40, "thoughts and other sources have a say"


def test_without_thoughts_memory_or_known_items_the_online_model_decides(
    catalog: Catalog, tmp_path: Path
) -> None:
    searcher = toy_searcher(toy_recommender(catalog), "torch-float64", tmp_path)
    finisher = Finisher(searcher, catalog)
    none = np.empty(0, dtype=np.int64)
    silent = NightItems(Neighbours.of_pairs(EVIDENCE, len(catalog), none, none, np.empty(0)))
    history = toy_histories(catalog, num_users=1)[0]
    found = NightPrefixes(finisher, silent).choose(history, [], num=8)
    own = finisher.rank_prefixes(finisher.encode(history), count=8)
    assert catalog.trie.nodes(np.array([prefix.codes for prefix in found])).tolist() == own.tolist()
    assert {(prefix.path, prefix.support) for prefix in found} == {(None, 0)}
