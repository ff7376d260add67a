"""Cache of thoughts on disk, so that no path is sampled twice.

A chunk of users is one micro-batch and one Parquet file. The file is named by the digest of the
users' histories. Its folder is named by the settings, the reasoner and the catalog. An interrupted
run continues from the cache, and a larger sample reuses a smaller one. Delete the folder after a
change of the code that thinks.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.quality.thoughts.path_beams import PATHS, from_rows, to_rows
from bench.quality.thoughts.thoughts import CaseThoughts, Thoughts, ThoughtSettings
from models.catalog.sid import SidSpace
from models.reasoner.placement import place
from models.reasoner.think import PathPrefix, UserHistory
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release

_CODES = pa.list_(pa.list_(pa.int32()))
_PREFIXES = pa.list_(
    pa.struct(
        [
            ("codes", pa.list_(pa.int32())),
            ("path", pa.int32()),
            ("logprob", pa.float64()),
            ("support", pa.int32()),
        ]
    )
)
_SECONDS = "seconds"


@dataclass(frozen=True)
class ThoughtCache:
    """Cached thoughts of one reasoner over one catalog under one set of settings."""

    folder: Path
    release_dir: Path
    reasoner_dir: Path
    settings: ThoughtSettings

    @classmethod
    def open(
        cls,
        root: Path,
        release: Release,
        settings: ThoughtSettings,
        *,
        reasoner_dir: Path | None = None,
    ) -> "ThoughtCache":
        """Create the folder if it is missing.

        Args:
            reasoner_dir: another reasoner over the same SIDs, instead of the release's own.
        """
        values = json.dumps(settings.to_json(), sort_keys=True)
        thinker = _digest(_thinker(release, reasoner_dir))[:12]
        folder = root / f"{release.name}-{thinker}-{_digest(values)[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(values + "\n")
        return cls(folder, release.directory, reasoner_dir or release.reasoner_dir, settings)

    def file(self, chunk: Sequence[UserHistory]) -> Path:
        asked = json.dumps([[user.user_id, user.rows] for user in chunk])
        return self.folder / f"{_digest(asked)}.parquet"

    def write(self, chunk: Sequence[UserHistory], thoughts: Thoughts) -> None:
        _write_chunk(self.file(chunk), thoughts)

    def read(self, chunk: Sequence[UserHistory]) -> Thoughts:
        return _read_chunk(self.file(chunk))

    def load_reasoner(self, space: SidSpace, **options: Any) -> TransformersReasoner:
        """Load the reasoner where the settings place it.

        options: of `TransformersReasoner.load`.
        """
        placed = place(self.settings.device, self.settings.dtype)
        return TransformersReasoner.load(self.reasoner_dir, space, **placed._asdict(), **options)

    def kept(self, kind: str, asked: Any, make: Callable[[], Any]) -> Any:
        """Return the cached result for `asked`; call `make` only if there is none.

        Args:
            kind: of result; part of the file's name.
            asked: the question, as JSON.
            make: computes the result, as JSON.
        """
        file = self.folder / f"{kind}-{_digest(json.dumps(asked))}.json"
        if not file.exists():
            with _draft_of(file) as draft:
                draft.write_text(json.dumps(make()))
        return json.loads(file.read_text())


def _write_chunk(file: Path, thoughts: Thoughts) -> None:
    users = thoughts.users
    table = pa.table(
        {
            "user_id": [user.user_id for user in users],
            "texts": pa.array([user.texts for user in users], pa.list_(pa.string())),
            "found": pa.array([_to_structs(user.found) for user in users], _PREFIXES),
            "sids": pa.array([user.sids for user in users], _CODES),
            "dropped_paths": [user.dropped_paths for user in users],
            "tokens": [user.tokens for user in users],
            "paths": pa.array([to_rows(user.paths) for user in users], PATHS),
        }
    )
    with _draft_of(file) as draft:
        pq.write_table(table.replace_schema_metadata({_SECONDS: repr(thoughts.seconds)}), draft)


def _read_chunk(file: Path) -> Thoughts:
    table = pq.read_table(file)
    users = [
        CaseThoughts(
            user_id=row["user_id"],
            texts=tuple(row["texts"]),
            found=_from_structs(row["found"]),
            sids=tuple(tuple(codes) for codes in row["sids"]),
            dropped_paths=row["dropped_paths"],
            tokens=row["tokens"],
            paths=from_rows(row.get("paths", ())),
        )
        for row in table.to_pylist()
    ]
    return Thoughts(users, float(table.schema.metadata[_SECONDS.encode()]))


def _to_structs(found: Sequence[PathPrefix]) -> list[dict[str, Any]]:
    return [prefix._asdict() for prefix in found]


def _from_structs(cells: Sequence[dict[str, Any]]) -> tuple[PathPrefix, ...]:
    return tuple(PathPrefix(**{**cell, "codes": tuple(cell["codes"])}) for cell in cells)


@contextmanager
def _draft_of(file: Path) -> Iterator[Path]:
    """Yield a temporary file of this process that replaces `file` at the end of the block."""
    draft = file.with_suffix(f".{os.getpid()}.draft")
    yield draft
    draft.replace(file)


def _thinker(release: Release, reasoner_dir: Path | None) -> str:
    """Return the files on which thoughts depend, as JSON: all but the online recommender's."""
    files = dict(release.manifest.files)
    if reasoner_dir is not None:
        files = {name: sha for name, sha in files.items() if not name.startswith("reasoner/")}
        for file in sorted(reasoner_dir.glob("*.*")):
            files[f"reasoner/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    parts = [[name, sha] for name, sha in files.items()]
    return json.dumps(sorted(one for one in parts if one[0].startswith(("reasoner/", "catalog."))))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
