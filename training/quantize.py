"""Items to SIDs: embed text and co-occurrence, then residual k-means with distinct last codes.

Knows the training split; never sees a validation or test target.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix, csr_matrix, diags
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD

from models.catalog.catalog import Catalog
from models.catalog.sid import SidSpace
from models.errors import InvalidDataset
from training.split import Split

FloatArray = NDArray[np.float32]
_COOCCURRENCE_DIMENSIONS = 64
_COOCCURRENCE_WINDOW = 5


class Quantized(NamedTuple):
    """Result of quantizing. N = items, L = levels."""

    space: SidSpace
    sids: NDArray[np.int32]  # (N, L), in the order of the given items


def embed_items(
    item_ids: Sequence[str],
    text_NE: FloatArray,
    split: Split,
    *,
    text_weight: float,
    seed: int,
) -> FloatArray:
    """Return one vector per item (N, E): weighted unit vectors of text and co-occurrence, joined.

    Args:
        text_NE: of `item_text.embed_texts`; without any text, co-occurrence counts alone.

    Raises:
        InvalidDataset: there is neither text nor co-occurrence.
    """
    parts = []
    if text_NE.any():
        parts.append(text_weight**0.5 * text_NE)
    share = 1 - text_weight if parts or text_weight < 1 else 1.0
    if split.num_train and share > 0:
        parts.append(share**0.5 * embed_cooccurrence(item_ids, split, seed=seed))
    if not parts:
        raise InvalidDataset("items have no text and users no histories: nothing to embed")
    return np.concatenate(parts, axis=1)


def embed_cooccurrence(item_ids: Sequence[str], split: Split, *, seed: int) -> FloatArray:
    """Embed items as unit vectors by the SVD of positive pointwise mutual information.

    Pairs are counted within a window of items. An item without a training interaction gets a zero
    vector, so that only its text counts.
    """
    counts = _count_pairs(item_ids, split)
    total, per_item = counts.sum(), np.asarray(counts.sum(axis=1)).ravel()
    inverse = diags(np.divide(1.0, per_item, out=np.zeros_like(per_item), where=per_item > 0))
    ratio = (inverse @ counts @ inverse).tocsr() * total
    ratio.data = np.maximum(np.log(np.maximum(ratio.data, 1e-12)), 0)
    dimensions = min(_COOCCURRENCE_DIMENSIONS, len(item_ids) - 1)
    vectors = TruncatedSVD(dimensions, random_state=seed).fit_transform(ratio).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: FloatArray = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-8)
    return units


def _count_pairs(item_ids: Sequence[str], split: Split) -> csr_matrix:
    at = {item: row for row, item in enumerate(item_ids)}
    left, right, weight = [], [], []
    for user in split.users:
        rows = [at[item] for item in user.train]
        for gap in range(1, _COOCCURRENCE_WINDOW + 1):
            left += rows[:-gap]
            right += rows[gap:]
            weight += [1.0 / gap] * max(len(rows) - gap, 0)
    shape = (len(item_ids), len(item_ids))
    pairs = coo_matrix((weight, (left, right)), shape=shape)
    return (pairs + pairs.T).tocsr()


def quantize(
    vectors: FloatArray, *, sizes: Sequence[int], prefix_depth: int = 2, seed: int = 0
) -> Quantized:
    """Assign SIDs by residual k-means, coarse to fine. Collisions get other last codes.

    If a prefix has more items than the last codebook has codes, items share SIDs evenly.
    """
    residual = vectors.copy()
    codes: list[NDArray[np.int32]] = []
    codebooks: list[FloatArray] = []
    for level, size in enumerate(sizes):
        num_clusters = min(size, len(np.unique(residual, axis=0)))
        means = KMeans(num_clusters, n_init=1, random_state=seed + level).fit(residual)
        centroids = means.cluster_centers_.astype(np.float32)
        is_last = level == len(sizes) - 1
        chosen = _spread(codes, residual, centroids) if is_last else means.labels_.astype(np.int32)
        codes.append(chosen)
        codebooks.append(centroids)
        residual = residual - centroids[chosen]
    digest = hashlib.sha256(b"".join(book.tobytes() for book in codebooks)).hexdigest()
    return Quantized(SidSpace(tuple(sizes), prefix_depth, digest), np.stack(codes, axis=1))


def count_sids(catalog: Catalog) -> dict[str, float]:
    """Count the items of a catalog, their SIDs and prefixes, for the report of a release."""
    num_prefixes = len(catalog.trie.prefixes())
    return {
        "items": len(catalog),
        "sids": len(catalog.trie),
        "prefixes": num_prefixes,
        "items_per_prefix": round(len(catalog) / num_prefixes, 2),
    }


def _spread(
    above: list[NDArray[np.int32]], residual: FloatArray, centroids: FloatArray
) -> NDArray[np.int32]:
    """Assign last codes: the cheapest distinct ones in each group that shares all codes above."""
    keys = np.stack(above, axis=1)
    _, group_of = np.unique(keys, axis=0, return_inverse=True)
    chosen = np.zeros(len(residual), dtype=np.int32)
    for members in np.split(
        np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1]
    ):
        distance = ((residual[members, None] - centroids[None]) ** 2).sum(axis=-1)
        copies = -(-len(members) // len(centroids))
        _, columns = linear_sum_assignment(np.tile(distance, copies))
        chosen[members] = columns % len(centroids)
    return chosen
