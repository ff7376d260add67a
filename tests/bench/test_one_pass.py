"""The whole catalog in one pass, against scoring item by item."""

import numpy as np
import pytest
import torch

from bench.finish.one_pass import CatalogScorer
from tests.fakes.toy import toy_catalog, toy_histories, toy_recommender
from tests.models.test_finish import brute_force


def test_float32_agrees_with_float64_brute_force_over_the_whole_catalog() -> None:
    catalog = toy_catalog()
    history = toy_histories(catalog)[3]
    scores = CatalogScorer(toy_recommender(catalog), catalog).score([history])[0]
    with torch.inference_mode():
        expected = brute_force(toy_recommender(catalog).double(), catalog, history)
    assert np.abs(scores - np.array(expected)).max() < 1e-4


def test_probabilities_of_a_full_catalog_sum_to_one() -> None:
    sizes = (3, 4, 5)
    catalog = toy_catalog(sizes=sizes, num_items=4000)
    assert len(catalog.trie) == 60
    scores = CatalogScorer(toy_recommender(catalog).double(), catalog).score([[1, 2, 3], []])
    leaves = catalog.first_row[:-1]
    assert np.exp(scores[:, leaves]).sum(axis=1) == pytest.approx([1.0, 1.0])


def test_batched_and_padded_histories_score_as_alone() -> None:
    catalog = toy_catalog()
    scorer = CatalogScorer(toy_recommender(catalog), catalog)
    histories = [*toy_histories(catalog, num_users=5), []]
    together = scorer.score(histories)
    alone = np.concatenate([scorer.score([history]) for history in histories])
    assert np.abs(together - alone).max() < 1e-4


def test_what_counts_of_a_long_history_is_what_the_window_says() -> None:
    catalog = toy_catalog()
    scorer = CatalogScorer(toy_recommender(catalog), catalog)
    history = (toy_histories(catalog)[0] * 60)[:120]
    assert np.array_equal(scorer.score([history]), scorer.score([history[50:]]))
    assert not np.array_equal(scorer.score([history]), scorer.score([history[51:]]))
