"""The one-pass finish against scoring every item on its own, in float64."""

import numpy as np
import pytest
import torch

from models.catalog import Catalog
from models.finish import Finisher
from models.recommender import OnlineRecommender, chain_nodes
from models.sid import Prefix
from tests.toy import toy_catalog, toy_histories, toy_recommender

SHAPES = [((8, 8, 16), 2), ((6, 5, 4, 7), 2), ((6, 5, 4, 7), 3), ((9, 30), 1)]


def brute_force(
    recommender: OnlineRecommender, catalog: Catalog, history: list[int]
) -> list[float]:
    """log P(SID | history) of every row, one item at a time, by the training path."""
    sids = torch.from_numpy(catalog.sids.astype(np.int64))
    lengths = torch.tensor([len(history)])
    memory = recommender.encode(sids[history].unsqueeze(0), lengths)
    scores = []
    for sid in sids:
        targets = sid.repeat(1, len(history) + 1, 1)
        hidden = recommender.decode(memory, chain_nodes(targets))[0, -len(sid) :]
        steps = [recommender.code_logprobs(hidden[at], at)[code] for at, code in enumerate(sid)]
        scores.append(float(sum(steps)))
    return scores


def some_prefixes(catalog: Catalog, count: int, seed: int) -> list[Prefix]:
    table = catalog.trie.prefixes()
    chosen = np.random.default_rng(seed).permutation(len(table))[:count]
    return [tuple(codes) for codes in table[chosen].tolist()]


@pytest.mark.parametrize(("sizes", "depth"), SHAPES)
def test_finish_equals_scoring_every_item(sizes: tuple[int, ...], depth: int) -> None:
    catalog = toy_catalog(sizes=sizes, prefix_depth=depth, num_items=120)
    recommender = toy_recommender(catalog).double()
    finisher = Finisher(recommender, catalog)
    with torch.inference_mode():
        for seed, history in enumerate(toy_histories(catalog, num_users=4)):
            scores = brute_force(recommender, catalog, history)
            prefixes = some_prefixes(catalog, 7, seed)
            legal = [
                row for row in range(len(catalog)) if tuple(catalog.sids[row, :depth]) in prefixes
            ]
            expected = sorted(legal, key=lambda row: (-round(scores[row], 9), row))[:10]
            found = finisher.finish(history, prefixes, k=10)
            assert [item.row for item in found] == expected
            assert [item.logprob for item in found] == pytest.approx(
                [scores[row] for row in expected], abs=1e-9
            )


def test_float32_agrees_with_float64_brute_force_over_the_whole_catalog() -> None:
    catalog = toy_catalog()
    history = toy_histories(catalog)[3]
    scores = Finisher(toy_recommender(catalog), catalog).score_catalog([history])[0]
    with torch.inference_mode():
        expected = brute_force(toy_recommender(catalog).double(), catalog, history)
    assert np.abs(scores - np.array(expected)).max() < 1e-4


def test_probabilities_of_a_full_catalog_sum_to_one() -> None:
    sizes = (3, 4, 5)
    catalog = toy_catalog(sizes=sizes, num_items=4000)
    assert len(catalog.trie) == 60
    finisher = Finisher(toy_recommender(catalog).double(), catalog)
    scores = finisher.score_catalog([[1, 2, 3], []])
    leaves = catalog.first_row[:-1]
    assert np.exp(scores[:, leaves]).sum(axis=1) == pytest.approx([1.0, 1.0])


def test_batched_and_padded_histories_score_as_alone() -> None:
    catalog = toy_catalog()
    finisher = Finisher(toy_recommender(catalog), catalog)
    histories = [*toy_histories(catalog, num_users=5), []]
    together = finisher.score_catalog(histories)
    alone = np.concatenate([finisher.score_catalog([history]) for history in histories])
    assert np.abs(together - alone).max() < 1e-4


def test_only_the_last_window_of_a_history_counts() -> None:
    catalog = toy_catalog()
    finisher = Finisher(toy_recommender(catalog), catalog)
    history = (toy_histories(catalog)[0] * 60)[:120]
    prefixes = finisher.best_prefixes(history, count=5)
    assert finisher.finish(history, prefixes, k=5) == finisher.finish(history[-50:], prefixes, k=5)


def test_an_appended_item_leaves_earlier_vectors_alone() -> None:
    catalog = toy_catalog()
    finisher = Finisher(toy_recommender(catalog), catalog)
    with torch.inference_mode():
        short = finisher.encode([[1, 2, 3]]).states_BHW
        long = finisher.encode([[1, 2, 3, 4]]).states_BHW
    assert torch.allclose(long[:, :4], short, atol=1e-6)


def test_excluded_rows_make_room_and_shared_sids_expand() -> None:
    catalog = toy_catalog(sizes=(2, 2, 2), num_items=40)
    finisher = Finisher(toy_recommender(catalog), catalog)
    prefixes = [(0, 0), (0, 1)]
    everything = finisher.finish([0, 1], prefixes, k=100)
    legal = sum(tuple(sid) in prefixes for sid in catalog.sids[:, :2].tolist())
    assert len(everything) == legal
    banned = {everything[0].row, everything[2].row}
    expected = [item for item in everything if item.row not in banned][:5]
    assert finisher.finish([0, 1], prefixes, k=5, exclude=banned) == expected


def test_unknown_and_repeated_prefixes_are_harmless() -> None:
    catalog = toy_catalog(num_items=20)
    finisher = Finisher(toy_recommender(catalog), catalog)
    known = some_prefixes(catalog, 3, seed=0)
    unknown = next((a, b) for a in range(8) for b in range(8) if not catalog.trie.contains((a, b)))
    expected = finisher.finish([1], known, k=9)
    assert finisher.finish([1], [*known, unknown, *known, (99, 99)], k=9) == expected
    assert finisher.finish([1], [unknown], k=9) == []
    assert finisher.finish([1], [], k=9) == []


def test_own_prefixes_are_the_exact_best() -> None:
    catalog = toy_catalog()
    recommender = toy_recommender(catalog).double()
    finisher = Finisher(recommender, catalog)
    history = toy_histories(catalog)[1]
    with torch.inference_mode():
        memory = finisher.encode([history])
        sids = torch.from_numpy(catalog.sids.astype(np.int64))
        best: dict[Prefix, float] = {}
        for sid in sids:
            targets = sid.repeat(1, len(history) + 1, 1)
            hidden = recommender.decode(memory, chain_nodes(targets))[0, -3:]
            first = recommender.code_logprobs(hidden[0], 0)[sid[0]]
            second = recommender.code_logprobs(hidden[1], 1)[sid[1]]
            best[tuple(sid[:2].tolist())] = float(first + second)
    expected = sorted(best, key=lambda prefix: -best[prefix])[:12]
    assert finisher.best_prefixes(history, count=12) == expected


def test_scores_that_are_not_numbers_never_come_out() -> None:
    catalog = toy_catalog()
    recommender = toy_recommender(catalog)
    with torch.no_grad():
        dict(recommender.named_parameters())["heads.2.bias"][:8] = float("nan")
    finisher = Finisher(recommender, catalog)
    assert finisher.finish([1, 2], some_prefixes(catalog, 9, 0), k=10) == []
