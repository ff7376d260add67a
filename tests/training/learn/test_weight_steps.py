"""Micro-batches: which positions carry loss, which rows move, and how far."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from models.catalog.catalog import Catalog
from models.online.recommender import OnlineRecommender, pack_sids
from tests.fakes.toy import toy_catalog, toy_recommender
from training.learn.candidate import Anchor, Candidate
from training.learn.lazy_adam import Rates, is_table
from training.learn.weight_steps import LearntEvents, StepSettings, learn_events

RATES = Rates(rows=1e-3, dense=1e-4, pull=0.01)
ALONE = StepSettings(passes=1, old_share=0.0)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


def begin(catalog: Catalog, rates: Rates = RATES) -> Candidate:
    return Candidate.new(Anchor(toy_recommender(catalog, scale=1.0)), rates)


def log_prob(recommender: OnlineRecommender, catalog: Catalog, rows: Sequence[int]) -> float:
    """Return log P(last item | items before it), from the softmax of each node on its path."""
    sids = torch.from_numpy(catalog.sids[list(rows)].astype(np.int64))
    state_W = recommender.encode(recommender.embed_items(sids[None, :-1]))[0, -1]
    total = 0.0
    for depth, query in enumerate(recommender.queries):
        prefix = tuple(catalog.sids[rows[-1], :depth].tolist())
        codes = catalog.trie.children(prefix).tolist()
        nodes = torch.tensor([[*prefix, code] for code in codes])
        packed = pack_sids(nodes, catalog.space.sizes[: depth + 1])
        logits = recommender.embed_nodes(packed, depth + 1) @ query(state_W)
        place = codes.index(int(catalog.sids[rows[-1], depth]))
        total += float(logits.detach().log_softmax(0)[place])
    return total


def test_the_loss_is_that_of_the_new_positions_alone(catalog: Catalog) -> None:
    candidate = begin(catalog)
    expected = [
        log_prob(candidate.recommender, catalog, rows)
        for rows in ([3, 9, 4], [3, 9, 4, 11], [8, 2])
    ]
    new = [LearntEvents((3, 9, 4, 11), (1.0, 0.5)), LearntEvents((8, 2), (2.0,))]
    losses = learn_events(
        candidate.recommender, candidate.optimizer, catalog, new, [], ALONE, seed=0
    )
    weighted = expected[0] + 0.5 * expected[1] + 2 * expected[2]
    assert losses == [pytest.approx(-weighted / 3.5, rel=1e-5)]


def test_an_event_that_weighs_nothing_moves_nothing(catalog: Catalog) -> None:
    candidate, before = begin(catalog), begin(catalog).tensors()
    new = [LearntEvents((3, 9, 4), (0.0,))]
    learn_events(candidate.recommender, candidate.optimizer, catalog, new, [], ALONE, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in candidate.tensors().items())


def test_rows_that_no_event_needs_stay_as_they_are(catalog: Catalog) -> None:
    candidate, before = begin(catalog), begin(catalog).tensors()
    new = [LearntEvents((3, 9, 4), (1.0,))]
    learn_events(candidate.recommender, candidate.optimizer, catalog, new, [], ALONE, seed=0)
    moved = {
        name: (value != before[f"weight/{name}"]).any(dim=1)
        for name, value in candidate.weights.items()
        if is_table(name)
    }
    leaves = moved["node_embeddings.1.own.weight"]
    steps = candidate.optimizer.state()["steps/node_embeddings.1.own.weight"]
    assert 0 < int(leaves.sum()) < len(leaves) / 2
    assert steps.tolist() == leaves.to(torch.int64).tolist()
    assert float((candidate.weights["start"] - before["weight/start"]).abs().max()) < 4e-4


def test_learnt_weights_are_pulled_back_to_the_anchor(catalog: Catalog) -> None:
    def distance(pull: float) -> float:
        candidate = begin(catalog, Rates(pull=pull))
        start = begin(catalog).weights
        new = [LearntEvents((3, 9, 4), (1.0,))] * 4
        settings = StepSettings(old_share=0.0, passes=30)
        learn_events(candidate.recommender, candidate.optimizer, catalog, new, [], settings, seed=0)
        return sum(float((value - start[name]).norm()) for name, value in candidate.weights.items())

    assert distance(0.2) < 0.5 * distance(0.0)


def test_long_days_are_learnt_in_parts(catalog: Catalog) -> None:
    """A user with more new events than half a window: each position is learnt once."""
    candidate = begin(catalog)
    window = candidate.recommender.config.window
    rows = tuple(range(window + 10))
    new = [LearntEvents(rows, (1.0,) * (window + 5))]
    settings = StepSettings(passes=1, old_share=0.0, batch_events=1)
    losses = learn_events(
        candidate.recommender, candidate.optimizer, catalog, new, [], settings, seed=0
    )
    assert len(losses) == 3


def test_replayed_histories_are_part_of_the_loss(catalog: Catalog) -> None:
    def learn(old: Sequence[LearntEvents]) -> dict[str, Tensor]:
        candidate = begin(catalog)
        new = [LearntEvents((3, 9, 4), (1.0,))]
        settings = StepSettings(old_share=0.5)
        learn_events(
            candidate.recommender, candidate.optimizer, catalog, new, old, settings, seed=0
        )
        return candidate.tensors()

    old = [LearntEvents((5, 6, 7), (1.0, 0.5, 1.0))]
    alone, among, again = learn([]), learn(old), learn(old)
    assert any(not torch.equal(alone[name], among[name]) for name in alone)
    assert all(torch.equal(again[name], among[name]) for name in among)


def test_a_big_slice_teaches_the_weights_a_part(catalog: Catalog) -> None:
    candidate = begin(catalog)
    new = [LearntEvents((user, user + 1, user + 2), (1.0, 1.0)) for user in range(50)]
    settings = StepSettings(passes=1, old_share=0.0, batch_events=4, most_events=20)
    losses = learn_events(
        candidate.recommender, candidate.optimizer, catalog, new, [], settings, seed=0
    )
    assert len(losses) == 5
