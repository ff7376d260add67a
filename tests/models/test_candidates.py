"""C_u as a tree, against sets of tuples."""

import numpy as np
import pytest

from models.catalog.candidates import Candidates, resolve
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from tests.fakes.toy import toy_catalog

SHAPES = [((8, 8, 16), 2), ((6, 5, 4, 7), 2), ((6, 5, 4, 7), 3), ((9, 30), 1)]


def codes_below(catalog: Catalog, chosen: set[Prefix], depth: int) -> set[Prefix]:
    """Distinct prefixes of `depth` codes of the SIDs below the chosen ones."""
    levels = catalog.space.prefix_depth
    sids = [tuple(sid) for sid in catalog.sids.tolist()]
    return {sid[:depth] for sid in sids if sid[:levels] in chosen}


@pytest.mark.parametrize(("sizes", "depth"), SHAPES)
def test_a_tree_holds_what_lies_at_and_below_its_prefixes(
    sizes: tuple[int, ...], depth: int
) -> None:
    catalog = toy_catalog(sizes=sizes, prefix_depth=depth, num_items=150)
    table = [tuple(codes) for codes in catalog.trie.prefixes().tolist()]
    chosen = set(table[::3])
    tree = resolve(catalog.trie, [*chosen, table[0], (99,) * depth])
    at_M = np.zeros(1, dtype=np.int64)
    above = np.empty((1, 0), dtype=np.int32)
    for level in range(1, len(sizes) + 1):
        parent_C, at_M = tree.children(level - 1, at_M)
        node_M = tree.trie_nodes(level, at_M)
        codes_MD = catalog.space.unpack(catalog.trie.packed[level][node_M], level)
        assert {*map(tuple, codes_MD.tolist())} == codes_below(catalog, chosen, level)
        assert np.array_equal(codes_MD[:, :-1], above[parent_C])
        above = codes_MD
    assert chosen == {tuple(codes) for codes in catalog.trie.prefixes()[tree.prefix_nodes].tolist()}


def test_the_whole_catalog_needs_no_list_of_its_prefixes() -> None:
    catalog = toy_catalog(sizes=(6, 5, 4, 7), num_items=150)
    whole, listed = (
        Candidates(catalog.trie),
        resolve(catalog.trie, [tuple(codes) for codes in catalog.trie.prefixes().tolist()]),
    )
    assert whole.prefix_nodes.tolist() == listed.prefix_nodes.tolist()


def test_leaves_are_counted_over_the_whole_catalog() -> None:
    """Leaves outside of C_u count too: a first code's share goes to all its SIDs."""
    catalog = toy_catalog(num_items=150)
    tree = resolve(catalog.trie, [tuple(catalog.trie.prefixes()[0].tolist())])
    at_M = np.zeros(1, dtype=np.int64)
    code = int(catalog.trie.codes[0][tree.trie_nodes(1, at_M)[0]])
    expected = sum(int(sid[0]) == code for sid in np.unique(catalog.sids, axis=0))
    assert tree.num_leaves(1, at_M).tolist() == [expected]
