"""Beams of each path at several widths, so that one night yields the results of many settings.

The first T paths of a night equal those of a night with T paths: the noise depends only on user,
path and step. Each width needs its own search after the same paths, because the m best of a wider
search need not be the result of a search of width m. Knows nothing of users or metrics.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.reasoner.beam import Beam, beam_search
from models.reasoner.think import PathPrefix, UserHistory, render_history, unite
from models.reasoner.transformers_engine import TransformersReasoner

_BEAM = pa.struct([("codes", pa.list_(pa.int32())), ("logprob", pa.float64())])
_BEAMS = pa.map_(pa.int32(), pa.list_(_BEAM))  # width -> beams
_PATH = pa.struct([("tokens", pa.int32()), ("text", pa.string()), ("beams", _BEAMS)])
PATHS = pa.list_(_PATH)  # paths of one user, as a cell of a Parquet table


class PathBeams(NamedTuple):
    """One sampled path."""

    tokens: int
    text: str | None  # None if the path did not close
    beams: dict[int, tuple[Beam, ...]]  # by width


def search_paths(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    users: Sequence[UserHistory],
    *,
    paths: int,
    widths: Sequence[int],
    seeds: Sequence[int],
) -> list[tuple[PathBeams, ...]]:
    """Return all paths of every user in the order sampled; an unclosed path has no beams."""
    prompts = [render_history(catalog, user.rows, user.instruction) for user in users]
    batch = reasoner.think(prompts, paths=paths, seeds=seeds)
    depth = catalog.space.prefix_depth
    found = [beam_search(batch.scorer(), catalog.trie, depth=depth, width=m) for m in widths]
    by_path = iter(
        [dict(zip(widths, map(tuple, beams), strict=True)) for beams in zip(*found, strict=True)]
    )
    texts = iter(text for of_user in batch.texts for text in of_user)
    every = [
        PathBeams(len(path), next(texts), next(by_path))
        if path[-1] == reasoner.think_end
        else PathBeams(len(path), None, {})
        for path in batch.sampled
    ]
    return [tuple(every[at : at + paths]) for at in range(0, len(every), paths)]


def unite_paths(
    found: Sequence[PathBeams], *, paths: int, width: int, max_prefixes: int
) -> tuple[PathPrefix, ...]:
    """Return C_u of a night with the first `paths` paths and beams of `width`, best first."""
    beams = [path.beams[width] for path in found[:paths] if path.text is not None]
    return tuple(unite(beams)[:max_prefixes])


def prefixes_of(
    found: Sequence[PathBeams], *, paths: int, width: int, max_prefixes: int
) -> tuple[Prefix, ...]:
    """Return the codes of `unite_paths`."""
    united = unite_paths(found, paths=paths, width=width, max_prefixes=max_prefixes)
    return tuple(prefix.codes for prefix in united)


def is_head_of_wider(path: PathBeams, *, width: int, wider: int) -> bool:
    """Tell if a search of `width` found the first beams of a wider one."""
    head = path.beams[wider][:width]
    return [beam.codes for beam in path.beams[width]] == [beam.codes for beam in head]


def to_rows(found: Sequence[PathBeams]) -> list[dict[str, Any]]:
    """Convert paths to a cell of type PATHS."""
    return [
        {
            "tokens": path.tokens,
            "text": path.text,
            "beams": [(m, [beam._asdict() for beam in beams]) for m, beams in path.beams.items()],
        }
        for path in found
    ]


def from_rows(rows: Sequence[dict[str, Any]]) -> tuple[PathBeams, ...]:
    """Convert a cell of type PATHS back to paths."""
    return tuple(PathBeams(row["tokens"], row["text"], _read_beams(row["beams"])) for row in rows)


def _read_beams(pairs: Sequence[tuple[int, Any]]) -> dict[int, tuple[Beam, ...]]:
    return {
        width: tuple(Beam(tuple(beam["codes"]), beam["logprob"]) for beam in beams)
        for width, beams in pairs
    }
