"""What the trie costs at a million SIDs: seconds, bytes, microseconds a look-up."""

import time
from collections.abc import Callable

import numpy as np

from models.sid import SidSpace
from models.trie import CatalogTrie

SPACES = (SidSpace((8192, 8192, 8192)), SidSpace((256, 256, 256, 256)), SidSpace((64, 64, 256)))
_LOOKUPS = 10_000


def measure(space: SidSpace, *, num_sids: int, seed: int) -> dict[str, str | int | float]:
    """Build a trie over `num_sids` random SIDs and look prefixes up, one by one and all at once."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(size, size=num_sids) for size in space.sizes], axis=1)
    started = time.perf_counter()
    trie = CatalogTrie(space, codes)
    build_s = time.perf_counter() - started
    known = trie.prefixes()
    wanted = known[rng.integers(len(known), size=_LOOKUPS)]
    as_tuples = [tuple(codes) for codes in wanted.tolist()]
    nodes = trie.nodes(wanted)
    return {
        "name": "x".join(str(size) for size in space.sizes),
        "sids": num_sids,
        "distinct_sids": len(trie),
        "prefixes": len(known),
        "build_s": build_s,
        "bytes": trie.num_bytes,
        "bytes_per_sid": trie.num_bytes / len(trie),
        "children_us": _microseconds(lambda: [trie.children(prefix) for prefix in as_tuples]),
        "expand_us": _microseconds(lambda: trie.expand(space.prefix_depth, nodes)),
    }


def _microseconds(look_up_all: Callable[[], object]) -> float:
    started = time.perf_counter()
    look_up_all()
    return (time.perf_counter() - started) / _LOOKUPS * 1e6
