"""Worlds of `bench finish`: a catalog, our runtimes, the baseline, and requests.

The real world is a release with its trained weights. A random world has other codebooks, random
SIDs and random weights; it shows only the cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from bench.finish.contenders import Contender, Generate, Ours
from bench.finish.generate import Generator
from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.catalog.sid import SidSpace
from models.online.best_first import NumpySearch
from models.online.build_kernel import built_library
from models.online.finish import Finisher, Searcher
from models.online.memory.neighbours import Neighbours
from models.online.native_runtime import NativeRuntime
from models.online.nodes import Floats
from models.online.onnx_graph import write_graph
from models.online.onnx_runtime import OnnxRuntime, Runtime
from models.online.recommender import OnlineRecommender
from models.online.shape import RecommenderConfig
from models.online.torch_runtime import TorchRuntime, load_recommender
from models.release.release import Release

MAX_HISTORY = 150


class Request(NamedTuple):
    """One user's input of a finish."""

    rows: tuple[int, ...]  # catalog rows of the history, oldest first
    candidates: Candidates  # below C_u


@dataclass(frozen=True)
class World:
    """A catalog with models over it."""

    catalog: Catalog
    searchers: tuple[tuple[Searcher, Searcher], ...]  # per runtime: with pruning, without
    generator: Generator | None  # None leaves `generate` out
    neighbours: Neighbours | None = None  # the memory of our finish

    def requests(self, histories: Sequence[Sequence[int]], *, num_prefixes: int) -> list[Request]:
        """Return one request per history; its C_u is the online model's own best prefixes."""
        finisher = Finisher(self.searchers[0][0], self.catalog, self.neighbours)
        return [
            Request(tuple(rows), finisher.own_prefixes(finisher.encode(rows), count=num_prefixes))
            for rows in histories
        ]

    def contenders(self) -> list[Contender]:
        """Return all contenders, the baseline first."""
        generate = [
            Generate(self.generator, self.catalog, exact=exact, reads_prompt_once=once)
            for once in (False, True)
            for exact in (False, True)
            if self.generator is not None
        ]
        ours = [
            Ours(
                searcher,
                self.catalog,
                prunes=prunes,
                new_items=new_items,
                neighbours=self.neighbours,
            )
            for both in self.searchers
            for new_items in (0, 1, None)
            for searcher, prunes in zip(both, (True, False), strict=True)
        ]
        return [*generate, *ours]


def real_world(release: Release, baseline: Path) -> World:
    """Build the real world, with a window of MAX_HISTORY; only the bias tables depend on it."""
    config = replace(release.recommender_config, window=MAX_HISTORY)
    weights = load_file(release.directory / "online.safetensors")
    recommender = OnlineRecommender(config)
    recommender.load_state_dict(
        load_recommender(release.directory, release.recommender_config).state_dict()
    )
    return World(
        release.catalog,
        searchers(config, weights, OnnxRuntime(release.directory, config, weights), recommender),
        Generator.load(baseline, release.catalog),
        release.load_neighbours(),
    )


def random_world(release: Release, baseline: Path, *, codebook: int, seed: int) -> World:
    """Build an untrained world with as many items and the same shapes over 3 x `codebook`."""
    space = SidSpace((codebook,) * 3, 2, "random")
    rng = np.random.default_rng(seed)
    sids = rng.integers(codebook, size=(len(release.catalog), 3), dtype=np.int32)
    order = np.argsort(space.pack(sids), kind="stable")
    catalog = replace(release.catalog, space=space, sids=np.ascontiguousarray(sids[order]))
    config = replace(release.recommender_config, sizes=space.sizes, window=MAX_HISTORY)
    torch.manual_seed(seed)
    recommender = OnlineRecommender.knowing(config, catalog.trie.packed[2:]).eval()
    weights = {name: value.numpy() for name, value in recommender.state_dict().items()}
    return World(
        catalog,
        searchers(config, weights, _untrained_onnx(recommender), recommender),
        Generator.untrained(baseline, catalog),
    )


def searchers(
    config: RecommenderConfig,
    weights: Mapping[str, Floats],
    onnx: OnnxRuntime,
    recommender: OnlineRecommender,
) -> tuple[tuple[Searcher, Searcher], ...]:
    """Return two searchers per runtime, with and without pruning; the fastest runtime first."""
    runtimes: tuple[Runtime, ...] = (onnx, TorchRuntime(recommender))
    both: list[tuple[Searcher, Searcher]] = [
        (NumpySearch(runtime), NumpySearch(runtime, prunes=False)) for runtime in runtimes
    ]
    if built_library() is not None:
        native = (NativeRuntime(config, weights, prunes=prunes) for prunes in (True, False))
        both.insert(0, (next(native), next(native)))
    return tuple(both)


def _untrained_onnx(recommender: OnlineRecommender) -> OnnxRuntime:
    with TemporaryDirectory(prefix="bench-finish-") as folder:
        directory = Path(folder)
        save_file(recommender.state_dict(), directory / "online.safetensors")
        write_graph(directory, recommender.config)
        weights = load_file(directory / "online.safetensors")
        return OnnxRuntime(directory, recommender.config, weights)


def histories_of(
    rows_by_user: Sequence[Sequence[int]], *, length: int, num_users: int
) -> list[list[int]]:
    """Return the newest `length` items of users with that many.

    If there are fewer than `num_users`, histories of several users are joined for the rest.
    """
    long = [list(rows[-length:]) for rows in rows_by_user if len(rows) >= length][:num_users]
    joined: list[int] = []
    for rows in rows_by_user:
        if len(long) == num_users:
            break
        joined += rows
        if len(joined) >= length:
            long.append(joined[-length:])
            joined = []
    return long
