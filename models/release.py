"""A release: catalog, SID space and both models, published together and verified at load.

    manifest.json           SHA-256 of every other file, SID space, recipe, metrics
    catalog.parquet         items, SIDs, training popularity
    online.safetensors      online recommender (its shape is in the manifest)
    reasoner/               a Hugging Face causal LM directory with its tokenizer
    README.md               model card

Nothing is unpickled. Knows nothing of Redis or HTTP.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.catalog import Catalog, load_catalog
from models.errors import InvalidCatalog, InvalidRelease, InvalidSid, ReleaseMismatch
from models.recommender import OnlineRecommender, RecommenderConfig
from models.sid import Prefix, SidSpace

FORMAT = 1
NUM_GLOBAL_PREFIXES = 100
NUM_POPULAR = 200


class SpaceSpec(BaseModel):
    """The SID space as the manifest writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sizes: tuple[int, ...]
    prefix_depth: int
    codebook: str
    fingerprint: str  # 16 hex digits


class ReleaseManifest(BaseModel):
    """`manifest.json`. `files` maps each relative path to its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    name: str
    space: SpaceSpec
    recommender: dict[str, Any]
    global_prefixes: tuple[tuple[int, ...], ...]
    popular: tuple[str, ...]
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    files: dict[str, str]


@dataclass(frozen=True, eq=False)
class Release:
    """A verified release on disk. `version` is a short digest of the manifest."""

    directory: Path
    manifest: ReleaseManifest
    version: str
    space: SidSpace
    catalog: Catalog

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def global_prefixes(self) -> tuple[Prefix, ...]:
        """Most popular prefixes of the training split, most popular first."""
        return self.manifest.global_prefixes

    @property
    def popular(self) -> tuple[str, ...]:
        """Most popular items of the training split, most popular first."""
        return self.manifest.popular

    @property
    def reasoner_dir(self) -> Path:
        return self.directory / "reasoner"

    def load_recommender(self) -> OnlineRecommender:
        """The online recommender, in eval mode. Raises InvalidRelease if weights do not fit."""
        file = self.directory / "online.safetensors"
        try:
            recommender = OnlineRecommender(RecommenderConfig.from_json(self.manifest.recommender))
            recommender.load_state_dict(load_file(file))
        except (SafetensorError, RuntimeError, TypeError, KeyError, OSError) as exc:
            raise InvalidRelease(f"{file}: {_one_line(exc)}") from exc
        return recommender.eval()

    @classmethod
    def load(cls, directory: Path) -> "Release":
        """Read and verify.

        Raises InvalidRelease or ReleaseMismatch with one line that names the file.
        """
        manifest, raw = _read_manifest(directory / "manifest.json")
        _verify_files(directory, manifest.files)
        space = _build_space(directory, manifest.space)
        try:
            catalog = load_catalog(directory / "catalog.parquet", space)
        except InvalidCatalog as exc:
            raise InvalidRelease(str(exc)) from exc
        if tuple(manifest.recommender.get("sizes", ())) != space.sizes:
            raise ReleaseMismatch(
                f"{directory}: recommender has codebooks {manifest.recommender.get('sizes')}, "
                f"expected {list(space.sizes)}"
            )
        return cls(directory, manifest, hashlib.sha256(raw).hexdigest()[:12], space, catalog)


def publish(
    directory: Path,
    *,
    name: str,
    catalog: Catalog,
    recommender: OnlineRecommender,
    reasoner_dir: Path,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
    card: str,
) -> Release:
    """Write a release beside `directory`, then swap it in by renaming; returns it verified."""
    space = catalog.space
    draft = directory.with_name(directory.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    catalog.save(draft / "catalog.parquet")
    save_file(
        {key: value.contiguous() for key, value in recommender.state_dict().items()},
        draft / "online.safetensors",
    )
    shutil.copytree(reasoner_dir, draft / "reasoner")
    (draft / "README.md").write_text(card)
    manifest = ReleaseManifest(
        format=FORMAT,
        name=name,
        space=SpaceSpec(
            sizes=space.sizes,
            prefix_depth=space.prefix_depth,
            codebook=space.codebook,
            fingerprint=f"{space.fingerprint:016x}",
        ),
        recommender=recommender.config.to_json(),
        global_prefixes=popular_prefixes(catalog, NUM_GLOBAL_PREFIXES),
        popular=popular_items(catalog, NUM_POPULAR),
        recipe=dict(recipe),
        metrics=dict(metrics),
        files={str(file.relative_to(draft)): _digest(file) for file in _files(draft)},
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
    (draft / "manifest.json").write_text(text + "\n")
    Release.load(draft)
    shutil.rmtree(directory, ignore_errors=True)
    draft.replace(directory)
    return Release.load(directory)


def popular_prefixes(catalog: Catalog, count: int) -> tuple[Prefix, ...]:
    """The `count` prefixes with the most training interactions, most popular first."""
    depth = catalog.space.prefix_depth
    nodes_N = catalog.trie.nodes(catalog.sids[:, :depth])
    weight_P = np.bincount(
        nodes_N, weights=catalog.popularity, minlength=len(catalog.trie.packed[depth])
    )
    order = np.argsort(-weight_P, kind="stable")[:count]
    return tuple(tuple(codes) for codes in catalog.trie.prefixes()[order].tolist())


def popular_items(catalog: Catalog, count: int) -> tuple[str, ...]:
    """The `count` items with the most training interactions, ties by item id."""
    ranked: Sequence[int] = sorted(
        range(len(catalog)), key=lambda row: (-int(catalog.popularity[row]), catalog.item_ids[row])
    )
    return tuple(catalog.item_ids[row] for row in ranked[:count])


def _read_manifest(file: Path) -> tuple[ReleaseManifest, bytes]:
    try:
        raw = file.read_bytes()
        manifest = ReleaseManifest.model_validate_json(raw)
    except OSError as exc:
        raise InvalidRelease(
            f"{file}: cannot be read ({exc.strerror}), expected a release"
        ) from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise InvalidRelease(f"{file}: {where}: {first['msg']}") from exc
    if manifest.format != FORMAT:
        raise InvalidRelease(f"{file}: format {manifest.format}, expected {FORMAT}")
    return manifest, raw


def _verify_files(directory: Path, files: Mapping[str, str]) -> None:
    for name, expected in sorted(files.items()):
        file = directory / name
        if not file.resolve().is_relative_to(directory.resolve()):
            raise InvalidRelease(f"{directory}: manifest names {name!r}, expected a path inside")
        if not file.is_file():
            raise InvalidRelease(f"{file}: missing, expected SHA-256 {expected[:12]}...")
        if (actual := _digest(file)) != expected:
            raise InvalidRelease(f"{file}: SHA-256 {actual[:12]}..., expected {expected[:12]}...")
    for required in ("catalog.parquet", "online.safetensors"):
        if required not in files:
            raise InvalidRelease(f"{directory}: the manifest does not name {required}")


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


def _files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.rglob("*") if file.is_file())


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]
