"""`python -m bench sids`: fan-out, uniqueness and category purity of sets of SIDs.

The offline tier chooses the two-code prefix; its fan-out is the choice left to the online tier.
Knows codes and categories. Knows nothing of models.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.common.command_line import add_json, add_own_data, add_release, make_parser
from bench.common.own_data import load_own_data
from bench.common.results import open_console, print_table, write_json
from models.errors import InvalidDataset
from models.release.release import Release

PREFIX_DEPTH = 2
_LEVELS = "abcdefgh"
_COLUMNS = ("name", "items", "levels", "groups_2", "fan_out", "fan_out_weighted", "unique")
_PURITY_COLUMNS = ("name", *(f"purity_{depth}" for depth in range(1, 5)))


@dataclass(frozen=True)
class SidSet:
    """Items and their SIDs."""

    name: str
    item_ids: tuple[str, ...]  # N items
    codes_NL: NDArray[np.int64]  # L codes of each


def published_sets(data_dir: Path) -> list[SidSet]:
    """Read the `sids_*.parquet` of a data folder.

    Their columns are `item_id` and one letter per level, from `a` on.
    """
    return [_read_set(file) for file in sorted(data_dir.glob("sids_*.parquet"))]


def _read_set(file: Path) -> SidSet:
    try:
        columns: dict[str, list[Any]] = pq.read_table(file).to_pydict()
    except (pa.ArrowException, OSError) as exc:
        raise InvalidDataset(f"{file}: not a readable Parquet table ({exc})") from exc
    levels = [letter for letter in _LEVELS if letter in columns]
    if "item_id" not in columns or len(levels) < PREFIX_DEPTH:
        raise InvalidDataset(f"{file}: columns {sorted(columns)}, expected item_id, a, b, ...")
    codes = np.array([columns[letter] for letter in levels], dtype=np.int64).T
    return SidSet(file.stem.removeprefix("sids_"), tuple(columns["item_id"]), codes)


def describe(sids: SidSet, categories: Mapping[str, Sequence[str]]) -> dict[str, str | int | float]:
    """Return one row: sizes, fan-out of the two-code prefix, unique share, purity per level.

    - `groups_d`: number of distinct prefixes of d codes.
    - `fan_out`: mean number of items per prefix.
    - `fan_out_weighted`: mean over items of the number of items with the same prefix.
    - `unique`: share of items with a SID of their own.
    - `purity_d`: share of categorised items in the most common category of their group, where a
      group has the same first d codes. Purity grows with the number of groups.
    """
    num_items, levels = sids.codes_NL.shape
    labels_N = _labels(sids.item_ids, categories)
    row: dict[str, str | int | float] = {"name": sids.name, "items": num_items, "levels": levels}
    for depth in range(1, levels + 1):
        group_N, sizes_G = _groups(sids.codes_NL[:, :depth])
        row[f"groups_{depth}"] = len(sizes_G)
        if (labels_N >= 0).any():
            row[f"purity_{depth}"] = _purity(group_N, labels_N)
        if depth == PREFIX_DEPTH:
            row["fan_out"] = num_items / len(sizes_G)
            row["fan_out_weighted"] = float((sizes_G**2).sum() / num_items)
        if depth == levels:
            row["unique"] = float((sizes_G == 1).sum() / num_items)
    return row


def _groups(codes_ND: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the group number of every item, and the size of every group."""
    _, group_N, sizes_G = np.unique(codes_ND, axis=0, return_inverse=True, return_counts=True)
    return group_N.reshape(-1), sizes_G


def _labels(item_ids: Sequence[str], categories: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    """Return one number per distinct category path, (N,); -1 for an item without categories."""
    numbers: dict[tuple[str, ...], int] = {}
    paths = (tuple(categories.get(item_id, ())) for item_id in item_ids)
    return np.array([numbers.setdefault(path, len(numbers)) if path else -1 for path in paths])


def _purity(group_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> float:
    has_label_N = labels_N >= 0
    pairs = np.stack([group_N[has_label_N], labels_N[has_label_N]], axis=1)
    cells, counts = np.unique(pairs, axis=0, return_counts=True)
    majority = np.zeros(group_N.max() + 1, dtype=np.int64)
    np.maximum.at(majority, cells[:, 0], counts)
    return float(majority.sum() / has_label_N.sum())


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    release = Release.load(options.release)
    dataset = load_own_data(options, release)
    own = SidSet(release.name, release.catalog.item_ids, release.catalog.sids.astype(np.int64))
    categories = {item_id: item.categories for item_id, item in dataset.items.items()}
    rows = [describe(sids, categories) for sids in [own, *published_sets(options.data)]]
    console = open_console()
    print_table(console, "SID sets", rows, _COLUMNS)
    print_table(console, "category purity by level", rows, _PURITY_COLUMNS)
    if options.json:
        meta = {"command": "sids", "release": f"{release.name}@{release.version}"}
        write_json(options.json, {**meta, "data": str(options.data)}, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("sids", __doc__)
    add_release(parser)
    add_own_data(parser)
    add_json(parser)
    return parser
