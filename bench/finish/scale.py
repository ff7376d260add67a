"""`python -m bench scale`: the finish on catalogs of up to ten million items.

Its cost depends on prefixes and fan-out, not on the number of items. SIDs are random over 3 x 8192,
weights are random in the bundled shape, and so are the neighbours of the memory. So only the cost
is measured, with the memory and without it. The skewed catalog has prefixes of very different
fan-out, and its C_u has the largest one.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from bench.common.command_line import add_json, add_seed, make_parser
from bench.common.results import open_console, print_table, write_json, write_markdown
from models.catalog.candidates import Candidates, from_nodes
from models.catalog.catalog import Catalog
from models.catalog.sid import SidSpace
from models.catalog.trie import CatalogTrie
from models.online.finish import Finisher, Searcher
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from models.online.recommender import OnlineRecommender
from models.online.shape import RecommenderConfig
from models.online.torch_runtime import fastest_searcher

SPACE = SidSpace((8192, 8192, 8192))
K, NUM_PREFIXES, HISTORY = 10, 100, 50
_MOST_SKEWED = _MOST_KNOWN = 1_000_000
_TRIES = 15
_COLUMNS = (
    "name", "items", "catalog_prefixes", "leaves", "cpu_ms_p50", "resolve_ms", "gather_us",
    "build_s", "bytes_per_item", "memory_cpu_ms_p50", "memory_bytes_per_item",
)  # fmt: skip


def random_sids(num_items: int, *, is_skewed: bool, seed: int) -> NDArray[np.int32]:
    """Draw SIDs, (N, 3).

    Prefixes of a skewed set follow Zipf's law: a few have over a thousand items.
    """
    rng = np.random.default_rng(seed)
    if not is_skewed:
        return rng.integers(8192, size=(num_items, 3), dtype=np.int32)
    rank = np.minimum(rng.zipf(1.3, size=num_items), 8192**2) - 1
    scattered = (rank * 2_654_435_761) % 8192**2  # neighbours in rank lie far apart
    last = rng.integers(8192, size=num_items)
    return np.stack([scattered // 8192, scattered % 8192, last], axis=1).astype(np.int32)


def bare_catalog(sids_NL: NDArray[np.int32]) -> Catalog:
    """Build a catalog of numbered items without titles."""
    num = len(sids_NL)
    order = np.argsort(SPACE.pack(sids_NL), kind="stable")
    return Catalog(
        space=SPACE,
        item_ids=tuple(map(str, range(num))),
        sids=np.ascontiguousarray(sids_NL[order]),
        titles=(None,) * num,
        brands=(None,) * num,
        categories=((),) * num,
        popularity=np.zeros(num, dtype=np.int64),
    )


def some_candidates(catalog: Catalog, *, has_largest: bool, seed: int) -> Candidates:
    """Draw a C_u of random prefixes; with `has_largest`, the largest prefix is one of them."""
    depth = SPACE.prefix_depth
    num_prefixes = len(catalog.trie.packed[depth])
    node_P = np.random.default_rng(seed).integers(num_prefixes, size=NUM_PREFIXES)
    if has_largest:
        node_P[0] = int(np.argmax(np.diff(catalog.trie.first_child[depth])))
    return from_nodes(catalog.trie, node_P)


def measure(num_items: int, *, is_skewed: bool, seed: int) -> dict[str, str | int | float]:
    sids_NL = random_sids(num_items, is_skewed=is_skewed, seed=seed)
    searcher = _random_searcher(sids_NL[:_MOST_KNOWN], seed)
    neighbours = random_neighbours(num_items, seed=seed)
    started = time.perf_counter()
    catalog = bare_catalog(sids_NL)
    finishers = Finisher(searcher, catalog), Finisher(searcher, catalog, neighbours)
    build_s = time.perf_counter() - started
    candidates = some_candidates(catalog, has_largest=is_skewed, seed=seed)
    rows = np.random.default_rng(seed).integers(num_items, size=HISTORY).tolist()
    plain_ms, memory_ms = (_finish_ms(finisher, rows, candidates) for finisher in finishers)
    depth, at_P = SPACE.prefix_depth, np.arange(len(candidates.prefix_nodes))
    tables = (catalog.sids, catalog.popularity, catalog.first_row)
    return {
        "name": f"{num_items:,}" + (" skewed" if is_skewed else ""),
        "items": num_items,
        "catalog_prefixes": len(catalog.trie.packed[depth]),
        "prefixes": len(at_P),
        "leaves": len(candidates.children(depth, at_P)[1]),
        "cpu_ms_p50": plain_ms,
        "resolve_ms": _median_ms(lambda: from_nodes(catalog.trie, candidates.prefix_nodes)),
        "gather_us": 1000 * _median_ms(lambda: candidates.children(depth, at_P)),
        "build_s": build_s,
        "bytes_per_item": (catalog.trie.num_bytes + sum(t.nbytes for t in tables)) / num_items,
        "memory_cpu_ms_p50": memory_ms,
        "memory_bytes_per_item": neighbours.num_bytes / num_items,
    }


def random_neighbours(num_items: int, *, seed: int) -> Neighbours:
    """Draw as many neighbours of each item as a memory keeps, with weights like those of counts."""
    settings = MemorySettings()
    rng, num_pairs = np.random.default_rng(seed), num_items * settings.num_neighbours
    weight_P = rng.random(num_pairs, dtype=np.float32)
    weight_P *= 0.1
    weight_P += 1e-3
    return Neighbours(
        settings,
        np.arange(0, num_pairs + 1, settings.num_neighbours, dtype=np.int64),
        rng.integers(num_items, size=num_pairs, dtype=np.int32),
        weight_P,
    )


def _finish_ms(finisher: Finisher, rows: Sequence[int], candidates: Candidates) -> float:
    state = finisher.encode(rows)
    return _median_ms(lambda: finisher.finish(state, candidates, k=K, exclude=rows))


def _median_ms(call: Callable[[], object]) -> float:
    call()
    milliseconds = []
    for _ in range(_TRIES):
        started = time.process_time_ns()
        call()
        milliseconds.append((time.process_time_ns() - started) / 1e6)
    return float(np.median(milliseconds))


def _random_searcher(known_NL: NDArray[np.int32], seed: int) -> Searcher:
    """Build a searcher with a random model that has an embedding for each of these items."""
    torch.manual_seed(seed)
    known = CatalogTrie(SPACE, known_NL).packed[2:]
    config = RecommenderConfig(sizes=SPACE.sizes)
    return fastest_searcher(OnlineRecommender.knowing(config, known).eval())


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    plans = [(num, False) for num in options.items]
    plans.append((min(options.items[-1], _MOST_SKEWED), True))
    rows = [
        measure(num_items, is_skewed=is_skewed, seed=options.seed)
        for num_items, is_skewed in track(plans, description="catalogs")
    ]
    title = f"finish of {NUM_PREFIXES} prefixes over random SIDs of 3 x 8192, history of {HISTORY}"
    print_table(open_console(), title, rows, _COLUMNS)
    if options.json:
        meta = {"command": "scale", "seed": options.seed}
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, _COLUMNS)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("scale", __doc__)
    add = parser.add_argument
    add(
        "--items",
        type=int,
        nargs="+",
        default=[12_101, 1_000_000, 10_000_000],
        metavar="N",
        help="(default: %(default)s)",
    )
    add_seed(parser)
    add_json(parser)
    return parser
