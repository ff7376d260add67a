"""An online recommender that learns of new nodes of the SID tree, with the weights of before."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from models.catalog.trie import CatalogTrie
from models.online.recommender import KnownNodes, OnlineRecommender

Ints = NDArray[np.int64]


def grow_recommender(
    recommender: OnlineRecommender,
    packed_by_depth: Sequence[Ints],
    *,
    trie: CatalogTrie | None = None,
) -> OnlineRecommender:
    """Return a copy in which more prefixes have an embedding of their own, at first zero.

    A zero row adds nothing, so the scores over any tree stay equal bit by bit until a step.

    Args:
        packed_by_depth: packed prefixes of two codes, of three, and so on, as in
            `OnlineRecommender.knowing`; known ones among them change nothing.
        trie: drops the rows of prefixes that it lacks, so that an item which gets the SID of a
            withdrawn one begins at zero.
    """
    old = _nodes(recommender)
    known = [
        np.union1d(_known(nodes), packed)
        for nodes, packed in zip(old, packed_by_depth, strict=True)
    ]
    if trie is not None:
        known = [
            np.intersect1d(packed, alive)
            for packed, alive in zip(known, trie.packed[2:], strict=True)
        ]
    config = replace(recommender.config, known_nodes=tuple(map(len, known)))
    with torch.random.fork_rng(devices=()):  # making an untrained one draws random numbers
        grown = OnlineRecommender.knowing(config, known).to(recommender.start.dtype)
    state = recommender.state_dict()
    for at, (nodes, rows) in enumerate(
        zip(_nodes(grown), rows_of_old(recommender, grown), strict=True)
    ):
        own, is_kept = torch.zeros_like(nodes.own.weight), torch.from_numpy(rows >= 0)
        own[torch.from_numpy(rows)[is_kept]] = old[at].own.weight.detach()[is_kept]
        name = f"node_embeddings.{at}"
        state |= {f"{name}.own.weight": own, f"{name}.known": nodes.known}
    grown.load_state_dict(state)
    return grown.train(recommender.training)


def rows_of_old(old: OnlineRecommender, grown: OnlineRecommender) -> tuple[Ints, ...]:
    """Return, by table of nodes, the new row of each old row; -1 for a row that was dropped.

    The last row of a table, of unknown nodes, becomes the last one.
    """
    return tuple(
        _places(nodes.known.numpy(), larger.known.numpy())
        for nodes, larger in zip(_nodes(old), _nodes(grown), strict=True)
    )


def _places(packed: Ints, sorted_packed: Ints) -> Ints:
    """Return the place of each value in a sorted array; -1 for one that is not there."""
    place = np.searchsorted(sorted_packed, packed)
    found: Ints = np.where(sorted_packed[place] == packed, place, -1)
    return found


def _nodes(recommender: OnlineRecommender) -> Sequence[KnownNodes]:
    return cast("Sequence[KnownNodes]", recommender.node_embeddings)


def _known(nodes: KnownNodes) -> Ints:
    known: Ints = nodes.known[:-1].numpy()
    return known
