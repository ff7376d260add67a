"""Beam search against the best of everything."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from models.catalog.sid import SidSpace
from models.catalog.trie import CatalogTrie
from models.reasoner.beam import Beam, Frontier, beam_search


class TableScorer:
    """Log-probabilities from a table per context and prefix; records every frontier."""

    def __init__(self, space: SidSpace, num_contexts: int, seed: int) -> None:
        self.space, self.num_contexts, self.seed = space, num_contexts, seed
        self.beams: list[list[tuple[int, ...]]] = [[()] for _ in range(num_contexts)]

    def logp(self, context: int, prefix: tuple[int, ...]) -> NDArray[np.float32]:
        rng = np.random.default_rng([self.seed, context, *prefix])
        logits = rng.normal(size=self.space.sizes[len(prefix)]) * 2
        values: NDArray[np.float32] = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
        return values

    def start(self) -> NDArray[np.float32]:
        return np.stack([self.logp(context, ()) for context in range(self.num_contexts)])

    def extend(self, frontier: Frontier) -> NDArray[np.float32]:
        self.beams = [
            [(*self.beams[row][parent], code) for parent, code in zip(parents, codes, strict=True)]
            for row, (parents, codes) in enumerate(
                zip(frontier.parents_RW.tolist(), frontier.codes_RW.tolist(), strict=True)
            )
        ]
        return np.stack(
            [
                np.stack([self.logp(row, beam) for beam in beams])
                for row, beams in enumerate(self.beams)
            ]
        )

    def joint(self, context: int, codes: tuple[int, ...]) -> float:
        return sum(float(self.logp(context, codes[:at])[code]) for at, code in enumerate(codes))


def random_trie(space: SidSpace, num: int, seed: int) -> CatalogTrie:
    rng = np.random.default_rng(seed)
    return CatalogTrie(space, rng.integers(0, space.sizes, size=(num, space.levels)))


@pytest.mark.parametrize("sizes", [(6, 5, 4), (4, 4, 3, 3)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_wide_beam_finds_the_best_of_everything_in_order(
    sizes: tuple[int, ...], depth: int
) -> None:
    space = SidSpace(sizes)
    trie, scorer = random_trie(space, 60, seed=1), TableScorer(space, 3, seed=2)
    legal = [tuple(codes) for codes in trie.prefixes(depth).tolist()]
    for context, beams in enumerate(beam_search(scorer, trie, depth=depth, width=1000)):
        expected = sorted(legal, key=lambda codes: -scorer.joint(context, codes))
        assert [beam.codes for beam in beams] == expected
        for beam in beams:
            assert beam.logprob == pytest.approx(scorer.joint(context, beam.codes), abs=1e-5)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_narrow_beam_equals_the_textbook_loop(width: int) -> None:
    space = SidSpace((6, 5, 4))
    trie, scorer = random_trie(space, 60, seed=3), TableScorer(space, 4, seed=4)
    for context, beams in enumerate(beam_search(scorer, trie, depth=3, width=width)):
        kept = [Beam((), 0.0)]
        for _ in range(3):
            grown = [
                Beam((*b.codes, c), b.logprob + float(scorer.logp(context, b.codes)[c]))
                for b in kept
                for c in trie.children(b.codes).tolist()
            ]
            kept = sorted(grown, key=lambda beam: (-beam.logprob, beam.codes))[:width]
        assert [beam.codes for beam in beams] == [beam.codes for beam in kept]


def test_no_beam_leaves_the_catalog() -> None:
    space = SidSpace((6, 5, 4))
    trie = random_trie(space, 30, seed=5)
    found = beam_search(TableScorer(space, 5, seed=6), trie, depth=3, width=10)
    assert all(trie.contains(beam.codes) for beam in itertools.chain.from_iterable(found))
    assert all(len(beams) == 10 for beams in found)


def test_an_empty_catalog_gives_no_beams() -> None:
    space = SidSpace((6, 5, 4))
    trie = CatalogTrie(space, np.empty((0, 3), dtype=np.int32))
    assert beam_search(TableScorer(space, 2, seed=0), trie, depth=2, width=4) == [[], []]


def test_a_single_item_is_always_found() -> None:
    space = SidSpace((6, 5, 4))
    trie = CatalogTrie(space, np.array([[5, 4, 3]]))
    found = beam_search(TableScorer(space, 2, seed=0), trie, depth=3, width=4)
    assert [[beam.codes for beam in beams] for beams in found] == [[(5, 4, 3)], [(5, 4, 3)]]


def test_equal_scores_go_to_the_smaller_sid() -> None:
    class Flat(TableScorer):
        def logp(self, context: int, prefix: tuple[int, ...]) -> NDArray[np.float32]:
            return np.full(self.space.sizes[len(prefix)], -1.0, dtype=np.float32)

    space = SidSpace((6, 5, 4))
    trie = random_trie(space, 60, seed=7)
    (beams,) = beam_search(Flat(space, 1, seed=0), trie, depth=2, width=4)
    assert [beam.codes for beam in beams] == [tuple(row) for row in trie.prefixes(2)[:4].tolist()]
