"""Rows that a night carries over unchanged: each user's newest row in the live generations.

Knows nothing of stores: the caller passes the live layers.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.errors import InvalidInput
from models.log.tombstones import Tombstones
from models.store.manifest import Layer
from offline.disk.shards import ShardRow, is_finished, parts, read_columns, read_part
from offline.plan.plan_file import Plan, PlannedUser

logger = logging.getLogger(__name__)


class LiveRow(NamedTuple):
    """A user's newest row in the live generations, without its thoughts."""

    source: str  # path of its part, relative to OUT
    digest: str
    created_at: int  # unix seconds
    is_legal: bool  # all its prefixes exist in the catalog


def read_live_rows(
    out_dir: Path, layers: Sequence[Layer], catalog: Catalog, *, must_have: Layer | None
) -> dict[str, LiveRow]:
    """Return each user's newest row. layers: newest first.

    Users of a missing layer or a damaged part are thought about again, and a warning is logged.
    Raises InvalidInput if the layer is `must_have`.
    """
    found: dict[str, LiveRow] = {}
    for layer in layers:
        rows: list[tuple[str, LiveRow]] = []
        try:
            rows.extend(_layer_rows(out_dir, layer, catalog))
        except InvalidInput as exc:
            if layer == must_have:
                raise
            logger.warning("%s; its users will be thought about again", exc)
        for user_id, row in rows:
            found.setdefault(user_id, row)
    return found


def _layer_rows(out_dir: Path, layer: Layer, catalog: Catalog) -> Iterator[tuple[str, LiveRow]]:
    folder = out_dir / str(layer.generation)
    if not is_finished(folder):
        raise InvalidInput(
            f"{folder}: missing, expected a live layer with rows that this night carries over: "
            "pass the --out it was made with, or refresh --users all"
        )
    tombstones = Tombstones.load(out_dir)
    # Rows added to a finished generation come before its own rows, the latest first.
    for part in [*reversed(parts(folder / "added")), *parts(folder)]:
        table = read_columns(part, ["user_id", "digest", "created_at", "codes"])
        source = part.relative_to(out_dir).as_posix()
        users, digests = table["user_id"].to_pylist(), table["digest"].to_pylist()
        times, legal = table["created_at"].to_pylist(), _are_legal(table["codes"], catalog)
        for row, user_id in enumerate(users):
            if tombstones.hides(user_id, times[row] * 1000):
                continue
            yield user_id, LiveRow(source, digests[row] or "", times[row], bool(legal[row]))


def _are_legal(codes: pa.ChunkedArray, catalog: Catalog) -> NDArray[np.bool_]:
    """Return, per row, True if all its prefixes exist in the catalog."""
    lists = codes.combine_chunks()
    prefixes = lists.flatten()
    depth = catalog.space.prefix_depth
    row_P = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    size_P = np.diff(prefixes.offsets.to_numpy())
    if (size_P != depth).any():
        return np.zeros(len(lists), dtype=bool)
    codes_PD = prefixes.flatten().to_numpy().reshape(-1, depth).astype(np.int64)
    is_illegal_P = catalog.trie.nodes(codes_PD) < 0
    legal: NDArray[np.bool_] = np.bincount(row_P[is_illegal_P], minlength=len(lists)) == 0
    return legal


def carry_rows(
    out_dir: Path, plan: Plan, shard: int, users: Iterable[PlannedUser]
) -> list[ShardRow]:
    """Read the rows of `users` from their sources. Raises InvalidInput if one is missing."""
    wanted: dict[int, set[str]] = {}
    for user in users:
        wanted.setdefault(user.group, set()).add(user.user_id)
    rows: list[ShardRow] = []
    for number, source in enumerate(plan.shards[shard].sources):
        ids = wanted.get(number, set())
        found = [row for row in read_part(out_dir / source) if row.thoughts.user_id in ids]
        if len(found) != len(ids):
            raise InvalidInput(
                f"{out_dir / source}: holds {len(found)} of {len(ids)} users to carry; plan again"
            )
        rows += found
    return rows
