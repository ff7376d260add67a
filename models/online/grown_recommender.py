"""An online recommender that learns of new nodes of the SID tree, with the weights of before."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from models.online.recommender import KnownNodes, OnlineRecommender

Ints = NDArray[np.int64]


def grow_recommender(
    recommender: OnlineRecommender, packed_by_depth: Sequence[Ints]
) -> OnlineRecommender:
    """Return a copy in which more prefixes have an embedding of their own, at first zero.

    A zero row adds nothing, so the scores over any tree stay equal bit by bit until a step.

    Args:
        packed_by_depth: packed prefixes of two codes, of three, and so on, as in
            `OnlineRecommender.knowing`; known ones among them change nothing.
    """
    old = _nodes(recommender)
    known = [
        np.union1d(_known(nodes), packed)
        for nodes, packed in zip(old, packed_by_depth, strict=True)
    ]
    config = replace(recommender.config, known_nodes=tuple(map(len, known)))
    with torch.random.fork_rng(devices=()):  # making an untrained one draws random numbers
        grown = OnlineRecommender.knowing(config, known).to(recommender.start.dtype)
    state = recommender.state_dict()
    for at, (nodes, rows) in enumerate(
        zip(_nodes(grown), rows_of_old(recommender, grown), strict=True)
    ):
        own = torch.zeros_like(nodes.own.weight)
        own[torch.from_numpy(rows)] = old[at].own.weight.detach()
        name = f"node_embeddings.{at}"
        state |= {f"{name}.own.weight": own, f"{name}.known": nodes.known}
    grown.load_state_dict(state)
    return grown.train(recommender.training)


def rows_of_old(old: OnlineRecommender, grown: OnlineRecommender) -> tuple[Ints, ...]:
    """Return, by table of nodes, the new row of each old row; the last, of unknown nodes, too."""
    rows = []
    for before, after in zip(_nodes(old), _nodes(grown), strict=True):
        place = np.searchsorted(_known(after), _known(before))
        rows.append(np.append(place, len(_known(after))).astype(np.int64))
    return tuple(rows)


def _nodes(recommender: OnlineRecommender) -> Sequence[KnownNodes]:
    return cast("Sequence[KnownNodes]", recommender.node_embeddings)


def _known(nodes: KnownNodes) -> Ints:
    known: Ints = nodes.known[:-1].numpy()
    return known
