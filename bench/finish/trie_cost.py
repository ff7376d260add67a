"""`python -m bench trie`: build time, bytes and look-up time of a trie over a million SIDs."""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from bench.common.command_line import add_json, add_seed, make_parser
from bench.common.results import open_console, print_table, write_json
from models.catalog.sid import SidSpace
from models.catalog.trie import CatalogTrie

SPACES = (SidSpace((8192, 8192, 8192)), SidSpace((256, 256, 256, 256)), SidSpace((64, 64, 256)))
_LOOKUPS = 10_000
_COLUMNS = ("name", "distinct_sids", "prefixes", "build_s", "bytes", "bytes_per_sid", "children_us")


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


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    rows = [measure(space, num_sids=options.sids, seed=options.seed) for space in SPACES]
    print_table(open_console(), f"CatalogTrie over {options.sids:,} random SIDs", rows, _COLUMNS)
    if options.json:
        write_json(options.json, {"command": "trie", "seed": options.seed}, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("trie", __doc__)
    parser.add_argument(
        "--sids", type=int, default=1_000_000, metavar="N", help="(default: %(default)s)"
    )
    add_seed(parser)
    add_json(parser)
    return parser
