"""A release: catalog, SID space and both models, published together and verified at load.

    manifest.json           SHA-256 of every other file, SID space, precisions, recipe, metrics
    catalog.parquet         items, SIDs, training popularity
    online.safetensors      weights of the online recommender (its shape is in the manifest)
    neighbours.safetensors  its memory (settings in the manifest); may be absent
    codebooks.safetensors   centroids that give new items their SIDs; absent before format 5
    extend.onnx             its graph, over those weights
    reasoner/               a Hugging Face causal LM directory with its tokenizer
    README.md               model card

Nothing is unpickled. `searchers` loads what serves. Knows nothing of Redis or HTTP.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.catalog.catalog import Catalog, load_catalog
from models.catalog.codebooks import Codebooks
from models.catalog.sid import Prefix, SidSpace
from models.errors import InvalidCatalog, InvalidRelease, InvalidSid, ReleaseMismatch
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from models.online.shape import RecommenderConfig
from models.release.release_files import MANIFEST, read_manifest_bytes, verify_files

NEIGHBOURS = "neighbours.safetensors"
ONLINE = "online.safetensors"
CODEBOOKS = "codebooks.safetensors"
FORMAT = 5
# Older formats hold another online model: they load and renew, but do not serve.
OLDEST_SERVED = 4  # as format 5, but without codebooks


class SpaceSpec(BaseModel):
    """The SID space in the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sizes: tuple[int, ...]
    prefix_depth: int
    codebook: str
    fingerprint: str  # 16 hex digits


class Precision(BaseModel):
    """Distance of one runtime from float64, measured when the release was published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    overlap: float  # mean share of float64's top ten that the runtime also has
    max_abs_difference: float  # of log-probabilities
    users: int  # histories measured


class Learns(StrEnum):
    """The part of each history that a release's models learn."""

    HELD_OUT = "held-out"  # all but validation and test target
    NOT_THE_TEST = "not the test items"  # all but the test target
    EVERYTHING = "everything"


class ReleaseManifest(BaseModel):
    """The contents of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    name: str
    space: SpaceSpec
    recommender: dict[str, Any]
    memory: MemorySettings | None = None  # of `neighbours.safetensors`; None without that file
    precisions: dict[str, Precision] = {}
    global_prefixes: tuple[tuple[int, ...], ...]
    popular: tuple[str, ...]
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    files: dict[str, str]  # relative path to SHA-256
    learnt: Learns = Learns.HELD_OUT


@dataclass(frozen=True, eq=False)
class Release:
    """A verified release on disk."""

    directory: Path
    manifest: ReleaseManifest
    version: str  # short digest of the manifest
    space: SidSpace
    catalog: Catalog

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def global_prefixes(self) -> tuple[Prefix, ...]:
        """Prefixes of the training split, most popular first."""
        return self.manifest.global_prefixes

    @property
    def popular(self) -> tuple[str, ...]:
        """Items of the training split, most popular first."""
        return self.manifest.popular

    @property
    def reasoner_dir(self) -> Path:
        return self.directory / "reasoner"

    @cached_property
    def recommender_config(self) -> RecommenderConfig:
        return RecommenderConfig.from_json(self.manifest.recommender)

    def load_memory(self) -> Memory | None:
        """Read the memory; None for a release without one. Raises InvalidRelease."""
        if (settings := self.manifest.memory) is None:
            return None
        return Memory.read(self.directory / NEIGHBOURS, settings, len(self.catalog))

    def load_neighbours(self) -> Neighbours | None:
        """Read the neighbours of the memory; None for a release without one."""
        memory = self.load_memory()
        return None if memory is None else memory.neighbours()

    def load_codebooks(self) -> Codebooks | None:
        """Read the codebooks; None for a release without them. Raises InvalidRelease."""
        if CODEBOOKS not in self.manifest.files:
            return None
        return Codebooks.read(self.directory / CODEBOOKS, self.space)

    @classmethod
    def load(cls, directory: Path) -> "Release":
        """Read and verify a release.

        Raises InvalidRelease or ReleaseMismatch with one line that names the file.
        """
        manifest, raw = _read_manifest(directory / MANIFEST)
        verify_files(directory, manifest.files)
        _check_required(directory, manifest.files)
        _check_memory(directory, manifest)
        space = _build_space(directory, manifest.space)
        try:
            catalog = load_catalog(directory / "catalog.parquet", space)
        except InvalidCatalog as exc:
            raise InvalidRelease(str(exc)) from exc
        _check_recommender(directory, manifest, space)
        return cls(directory, manifest, hashlib.sha256(raw).hexdigest()[:12], space, catalog)


def _read_manifest(file: Path) -> tuple[ReleaseManifest, bytes]:
    raw = read_manifest_bytes(file)
    try:
        manifest = ReleaseManifest.model_validate_json(raw)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise InvalidRelease(f"{file}: {where}: {first['msg']}") from exc
    if not 1 <= manifest.format <= FORMAT:
        raise InvalidRelease(f"{file}: format {manifest.format}, expected 1..{FORMAT}")
    return manifest, raw


def _check_required(directory: Path, files: Mapping[str, str]) -> None:
    for required in ("catalog.parquet", ONLINE):
        if required not in files:
            raise InvalidRelease(f"{directory}: the manifest does not name {required}")


def _check_memory(directory: Path, manifest: ReleaseManifest) -> None:
    if (manifest.memory is None) == (NEIGHBOURS in manifest.files):
        raise InvalidRelease(
            f"{directory}: the manifest has either settings of a memory or {NEIGHBOURS}, "
            "expected both or neither"
        )


def _check_recommender(directory: Path, manifest: ReleaseManifest, space: SidSpace) -> None:
    sizes = manifest.recommender.get("sizes")
    if not isinstance(sizes, list) or tuple(sizes) != space.sizes:
        raise ReleaseMismatch(
            f"{directory}: recommender has codebooks {sizes}, expected {list(space.sizes)}"
        )
    if manifest.format >= OLDEST_SERVED:
        try:
            RecommenderConfig.from_json(manifest.recommender)
        except InvalidRelease as exc:
            raise InvalidRelease(f"{directory / 'manifest.json'}: {exc}") from exc


def _build_space(directory: Path, spec: SpaceSpec) -> SidSpace:
    try:
        space = SidSpace(spec.sizes, spec.prefix_depth, spec.codebook)
    except InvalidSid as exc:
        raise InvalidRelease(f"{directory}: {exc}") from exc
    if f"{space.fingerprint:016x}" != spec.fingerprint:
        raise ReleaseMismatch(
            f"{directory}: SID space fingerprint {spec.fingerprint}, "
            f"expected {space.fingerprint:016x}"
        )
    return space
