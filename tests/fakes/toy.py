"""A toy world: small enough to check by brute force, shaped like the real one.

`toy_release` writes a complete release: a recommender with random weights, and a reasoner that was
trained for seconds.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import save_file

from models.catalog.catalog import Catalog, build_catalog
from models.catalog.codebooks import Codebooks
from models.catalog.dataset import ItemText
from models.catalog.sid import SidSpace
from models.online.best_first import NumpySearch
from models.online.build_kernel import built_library
from models.online.finish import Searcher
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.similar_items import SimilarItems
from models.online.native_runtime import NATIVE, NativeRuntime
from models.online.onnx_graph import write_graph
from models.online.onnx_runtime import ONNX, OnnxRuntime
from models.online.recommender import OnlineRecommender
from models.online.shape import RecommenderConfig
from models.online.torch_runtime import TorchRuntime
from models.release.publish import publish
from models.release.release import Learns, Release

TOPICS = ("Nails", "Hair", "Face", "Bath")


def toy_catalog(
    *,
    sizes: tuple[int, ...] = (8, 8, 16),
    num_items: int = 200,
    prefix_depth: int = 2,
    seed: int = 0,
) -> Catalog:
    """Random SIDs, some shared; items are called `item-0`, `item-1`, ..."""
    rng = np.random.default_rng(seed)
    space = SidSpace(sizes, prefix_depth, "toy")
    names = [f"item-{number}" for number in range(num_items)]
    sids = {name: tuple(int(rng.integers(size)) for size in sizes) for name in names}
    items = {
        name: ItemText(
            f"Title of {name}", f"Brand {sid[0]}", ("Beauty", TOPICS[sid[0] % 4], f"Kind {sid[1]}")
        )
        for name, sid in sids.items()
    }
    popularity = {name: int(rng.integers(1, 50)) for name in names}
    return build_catalog(space, sids, items, popularity)


def toy_recommender(
    catalog: Catalog,
    *,
    seed: int = 0,
    scale: float = 8.0,
    layers: int = 2,
    width: int = 32,
    heads: int = 2,
) -> OnlineRecommender:
    """Random weights, scaled up so that distributions are far from flat."""
    torch.manual_seed(seed)
    known = [packed[::2] for packed in catalog.trie.packed[2:]]  # not every node
    config = RecommenderConfig(
        sizes=catalog.space.sizes,
        width=width,
        heads=heads,
        layers=layers,
        dropout=0.0,
        item_dropout=0.0,
        item_scale=1.5,
    )
    recommender = OnlineRecommender.knowing(config, known)
    with torch.no_grad():
        for weight in recommender.parameters():
            if weight.dim() > 1:
                weight.mul_(scale)
    return recommender.eval()


def toy_onnx(recommender: OnlineRecommender, directory: Path) -> OnnxRuntime:
    """Write graph and weights of a recommender to `directory`, and load them."""
    file = directory / "online.safetensors"
    save_file(recommender.state_dict(), file)
    write_graph(directory, recommender.config)
    return OnnxRuntime(directory, recommender.config, load_file(file))


def toy_native(recommender: OnlineRecommender, *, prunes: bool = True) -> NativeRuntime:
    """Skips the test where no kernel could be built."""
    if built_library() is None:
        pytest.skip("no C compiler built a kernel for this processor")
    weights = {name: value.numpy() for name, value in recommender.float().state_dict().items()}
    return NativeRuntime(recommender.config, weights, prunes=prunes)


def toy_searcher(
    recommender: OnlineRecommender, precision: str, directory: Path, *, prunes: bool = True
) -> Searcher:
    """Any precision; directory: for the graph."""
    if precision == NATIVE:
        return toy_native(recommender, prunes=prunes)
    if precision == ONNX:
        return NumpySearch(toy_onnx(recommender.float(), directory), prunes=prunes)
    dtype = {"torch-float64": torch.float64, "torch-float32": torch.float32}[precision]
    return NumpySearch(TorchRuntime(recommender.to(dtype)), prunes=prunes)


def toy_histories(catalog: Catalog, *, num_users: int = 20, seed: int = 0) -> list[list[int]]:
    """Catalog rows of random histories of 1 to 12 items."""
    rng = np.random.default_rng(seed)
    return [
        rng.choice(len(catalog), size=rng.integers(1, 13), replace=False).tolist()
        for _ in range(num_users)
    ]


def toy_memory(catalog: Catalog) -> Memory:
    """Counts of random histories and random texts, with the default settings."""
    vectors = np.random.default_rng(0).normal(size=(len(catalog), 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    settings = MemorySettings()
    similar = SimilarItems.of(vectors, settings.num_similar)
    return Memory.counted(toy_histories(catalog, num_users=100), similar, settings)


def toy_vectors(catalog: Catalog, *, width: int = 400) -> NDArray[np.float32]:
    """Return vectors (N, width) that residual k-means would quantize to about these SIDs."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(scale=0.01, size=(len(catalog), width))
    for level, size in enumerate(catalog.space.sizes):
        vectors += rng.normal(scale=0.5**level, size=(size, width))[catalog.sids[:, level]]
    return vectors.astype(np.float32)


def toy_codebooks(catalog: Catalog) -> Codebooks:
    return Codebooks.of_items(toy_vectors(catalog), catalog.sids, catalog.space.sizes)


def toy_release(
    directory: Path,
    *,
    catalog: Catalog | None = None,
    stages: tuple[str, ...] = (),
    learnt: Learns = Learns.HELD_OUT,
) -> Release:
    """Publish the toy world as a release into `directory` (replaced if it exists).

    stages: that its reasoner is said to have gone through; without any, the default ones.
    """
    from tests.fakes.toy_reasoner import write_toy_reasoner  # its libraries take seconds to load

    catalog = catalog or toy_catalog()
    reasoner_dir = directory.with_name(directory.name + "-reasoner")
    write_toy_reasoner(catalog, reasoner_dir)
    return publish(
        directory,
        name="toy",
        catalog=catalog,
        recommender=toy_recommender(catalog),
        reasoner_dir=reasoner_dir,
        histories=toy_histories(catalog),
        recipe={"seed": 0, "data_sha256": "toy"}
        | ({"reasoner": {"stages": stages}} if stages else {}),
        metrics={"online": {}},
        card="# toy\n",
        learnt=learnt,
        memory=toy_memory(catalog),
        codebooks=toy_codebooks(catalog),
    )
