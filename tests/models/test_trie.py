"""The trie against sets, which are too simple to be wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.catalog.sid import SidSpace
from models.catalog.trie import CatalogTrie
from models.errors import InvalidSid

SIZES = st.sampled_from([(3, 3, 4), (2, 5, 2), (3, 2, 2, 3), (1, 1, 1)])


@st.composite
def catalogs(draw: st.DrawFn) -> tuple[SidSpace, set[tuple[int, ...]]]:
    sizes = draw(SIZES)
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return SidSpace(sizes), draw(st.sets(sid, max_size=40))


def build(space: SidSpace, sids: set[tuple[int, ...]]) -> CatalogTrie:
    return CatalogTrie(space, np.array(list(sids), dtype=np.int32).reshape(-1, space.levels))


def all_prefixes(space: SidSpace) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for size in space.sizes:
        longest = [prefix for prefix in found if len(prefix) == len(found[-1])]
        found += [(*prefix, code) for prefix in longest for code in range(size)]
    return found


@given(catalogs())
def test_every_prefix_agrees_with_a_set(world: tuple[SidSpace, set[tuple[int, ...]]]) -> None:
    space, sids = world
    trie = build(space, sids)
    for prefix in all_prefixes(space):
        below = {sid for sid in sids if sid[: len(prefix)] == prefix}
        expected = sorted({sid[len(prefix)] for sid in below if len(sid) > len(prefix)})
        assert trie.children(prefix).tolist() == expected
        assert trie.contains(prefix) == (bool(below) or prefix == ())
    assert len(trie) == len(sids)


@given(catalogs())
def test_ragged_expansion_lists_the_children_of_each_node(
    world: tuple[SidSpace, set[tuple[int, ...]]],
) -> None:
    space, sids = world
    trie = build(space, sids)
    for depth in range(space.levels):
        nodes = np.arange(len(trie.packed[depth]))[::-1].copy()
        found = trie.expand(depth, nodes)
        prefixes = trie.prefixes(depth).tolist()
        expected = [
            (at, code)
            for at, node in enumerate(nodes.tolist())
            for code in trie.children(tuple(prefixes[node])).tolist()
        ]
        assert list(zip(found.parent_C.tolist(), found.code_C.tolist(), strict=True)) == expected
        assert (trie.parents(depth, found.node_C) == nodes[found.parent_C]).all()


def test_prefixes_that_the_catalog_lacks_have_no_node() -> None:
    trie = build(SidSpace((3, 3, 4)), {(0, 1, 2), (2, 2, 3)})
    prefixes = np.array([[0, 1], [0, 2], [2, 2], [7, 7], [-1, 4]])
    assert trie.nodes(prefixes).tolist() == [0, -1, 1, -1, -1]
    assert not trie.contains((0, 1, 2, 0))


def test_an_empty_catalog_has_a_root_and_nothing_else() -> None:
    trie = build(SidSpace((3, 3, 4)), set())
    assert len(trie) == 0
    assert trie.children(()).tolist() == []
    assert trie.prefixes().shape == (0, 2)
    assert trie.nodes(np.array([[0, 0]])).tolist() == [-1]


def test_a_full_catalog_offers_every_code_everywhere() -> None:
    space = SidSpace((3, 2, 4))
    sids: set[tuple[int, ...]] = {(a, b, c) for a in range(3) for b in range(2) for c in range(4)}
    trie = build(space, sids)
    assert all(len(trie.children((a, b))) == 4 for a in range(3) for b in range(2))


def test_a_code_outside_its_codebook_is_named() -> None:
    with pytest.raises(InvalidSid, match=r"code 4 at level 2, expected 0\.\.3"):
        CatalogTrie(SidSpace((3, 3, 4)), np.array([[0, 0, 0], [0, 0, 4]]))
