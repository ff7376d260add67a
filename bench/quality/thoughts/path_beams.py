"""What each path of a night found at several beam widths, so that one night answers for many.

The first T paths of a night are those of a night of T paths: the noise depends on user, path and
step alone. A beam of another width is searched anew after the same paths, because the m best of a
wider search need not be what a search of width m finds. Knows nothing of users or metrics.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.reasoner.beam import Beam, beam_search
from models.reasoner.think import UserHistory, render_history, unite
from models.reasoner.transformers_engine import TransformersReasoner

_BEAM = pa.struct([("codes", pa.list_(pa.int32())), ("logprob", pa.float64())])
_BEAMS = pa.map_(pa.int32(), pa.list_(_BEAM))  # by width
_PATH = pa.struct([("tokens", pa.int32()), ("text", pa.string()), ("beams", _BEAMS)])
PATHS = pa.list_(_PATH)  # one user's, as a cell of a Parquet table


class PathBeams(NamedTuple):
    """One sampled path: its tokens, its text if it closed, and its beams by width."""

    tokens: int
    text: str | None
    beams: dict[int, tuple[Beam, ...]]


def search_paths(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    users: Sequence[UserHistory],
    *,
    paths: int,
    widths: Sequence[int],
    seeds: Sequence[int],
) -> list[tuple[PathBeams, ...]]:
    """All paths of every user in the order sampled; those that did not close have no beams."""
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


def prefixes_of(
    found: Sequence[PathBeams], *, paths: int, width: int, max_prefixes: int
) -> tuple[Prefix, ...]:
    """C_u as a night of the first `paths` paths and beams of `width` leaves it, best first."""
    beams = [path.beams[width] for path in found[:paths] if path.text is not None]
    return tuple(prefix.codes for prefix in unite(beams)[:max_prefixes])


def is_head_of_wider(path: PathBeams, *, width: int, wider: int) -> bool:
    """Whether a search of `width` found the first beams of a wider one."""
    head = path.beams[wider][:width]
    return [beam.codes for beam in path.beams[width]] == [beam.codes for beam in head]


def to_rows(found: Sequence[PathBeams]) -> list[dict[str, Any]]:
    """As PATHS holds them."""
    return [
        {
            "tokens": path.tokens,
            "text": path.text,
            "beams": [(m, [beam._asdict() for beam in beams]) for m, beams in path.beams.items()],
        }
        for path in found
    ]


def from_rows(rows: Sequence[dict[str, Any]]) -> tuple[PathBeams, ...]:
    """Inverse of `to_rows`."""
    return tuple(PathBeams(row["tokens"], row["text"], _read_beams(row["beams"])) for row in rows)


def _read_beams(pairs: Sequence[tuple[int, Any]]) -> dict[int, tuple[Beam, ...]]:
    return {
        width: tuple(Beam(tuple(beam["codes"]), beam["logprob"]) for beam in beams)
        for width, beams in pairs
    }
