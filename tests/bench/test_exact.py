"""The brute-force reference, and the finish held against it on the toy world."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.finish.exact import brute_force, compare, differs, expected_top
from bench.finish.one_pass import CatalogScorer
from models.catalog.candidates import resolve
from models.online.finish import Scored
from models.release.release import Release
from tests.fakes.service_harness import toy_release_dir
from tests.fakes.toy import toy_catalog, toy_histories, toy_recommender


def test_brute_force_sums_to_one_over_a_full_catalog() -> None:
    catalog = toy_catalog(sizes=(3, 4, 5), num_items=4000)
    recommender = toy_recommender(catalog).double()
    with torch.inference_mode():
        state = CatalogScorer(recommender, catalog).encode([[1, 2, 3]])[0]
        scores = brute_force(recommender, catalog, state)
    assert math.fsum(np.exp(scores[catalog.first_row[:-1]])) == pytest.approx(1.0)


def test_the_finish_equals_brute_force_on_the_toy_release() -> None:
    release = Release.load(Path(toy_release_dir()))
    exact, *others = compare(release, [*toy_histories(release.catalog, num_users=6), []])
    assert exact["max_abs_difference"] == pytest.approx(0, abs=1e-10)
    served = [row for row in others if "float32" in str(row["name"])]
    assert {"onnx-float32", "onnx-float32-unpruned"} <= {row["name"] for row in served}
    for row in served:
        assert row["max_abs_difference"] == pytest.approx(0, abs=1e-4)
    assert {row["top_sets_that_differ"] for row in (exact, *served)} == {0}


def test_a_wrong_item_is_a_difference_and_a_tie_is_not() -> None:
    scores, catalog = np.array([-1.0, -2.0, -2.0, -3.0]), toy_catalog(num_items=4)
    assert expected_top(scores, catalog, resolve(catalog.trie, [])) == []
    assert not differs([Scored(0, -1.0, -1.0), Scored(2, -2.0, -2.0)], [0, 1], scores)
    assert differs([Scored(0, -1.0, -1.0), Scored(3, -3.0, -3.0)], [0, 1], scores)
    assert differs([Scored(0, -1.0, -1.0)], [0, 1], scores)
