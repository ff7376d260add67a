"""C_u as a tree: the prefixes of a record below their first codes, and what each one holds.

Knows catalogs and records; knows nothing of HTTP.
"""

from collections import Counter
from collections.abc import Sequence

from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.store.records import RecordedPrefix
from service.explore.explore_bodies import PrefixNode


def prefix_tree(catalog: Catalog, prefixes: Sequence[RecordedPrefix]) -> list[PrefixNode]:
    """Return one node a first code, likeliest first; prefixes outside the catalog have no items."""
    found: dict[int, list[PrefixNode]] = {}
    for codes, path, logprob in prefixes:  # best first
        leaf = _node(catalog, codes).model_copy(update={"logprob": logprob, "path": path})
        found.setdefault(codes[0], []).append(leaf)
    return [_node(catalog, (first,), below) for first, below in found.items()]


def _node(catalog: Catalog, codes: Prefix, below: Sequence[PrefixNode] = ()) -> PrefixNode:
    rows = catalog.rows_below(codes)
    named = Counter(catalog.categories[row][-1] for row in rows if catalog.categories[row])
    mostly, count = named.most_common(1)[0] if named else (None, 0)
    example = max(rows, key=lambda row: int(catalog.popularity[row]), default=None)
    return PrefixNode(
        codes=list(codes),
        mostly=mostly,
        share=count / max(len(rows), 1),
        example=catalog.titles[example] if example is not None else None,
        num_items=len(rows),
        logprob=None,
        path=None,
        below=list(below),
    )
