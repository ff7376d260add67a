"""A live folder: base releases, the deltas on them, and the pointer to what serves.

    bases/<version>/                         whole releases
    deltas/<version>/000001.safetensors ...  what learning changed since: a chain
    pointer.json                             base and number of deltas that serve
    readers/<host>-<process>                 the base that a worker or a night reads

One learner writes it; any number of services read it. Everything else appears by renaming, and the
pointer moves last. Knows nothing of Redis or HTTP.
"""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from models.durable import copy_durably, link_or_copy, sync_folder, write_durably
from models.errors import InvalidRecord, InvalidRelease, ManifestConflict, one_line
from models.online.memory.neighbours import Neighbours
from models.online.online_weights import read_online_weights
from models.release.delta import (
    ChangedLists,
    Delta,
    DeltaHeader,
    ReadDelta,
    Weights,
    apply_weights,
    between,
    check_delta,
    read_delta,
)
from models.release.release import ONLINE, Release
from models.release.release_files import digest
from models.store.model_pointer import LiveVersion, ModelPointer

Changed = Literal["nothing", "counts", "weights", "base"]  # each one includes those before it
_POINTER = "pointer.json"
_HELD_S = 24 * 3600  # a reader's base stays for so long after the reader's last look


class LiveFolder:
    """The files of a live release. Methods that write are for one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def base_dir(self, base: str) -> Path:
        return self.path / "bases" / base

    def delta_file(self, base: str, number: int) -> Path:
        return self.path / "deltas" / base / f"{number:06d}.safetensors"

    def bases(self) -> list[str]:
        """Return the versions of all bases, the last published first."""
        found = [folder for folder in self.path.glob("bases/*") if not folder.suffix]
        found.sort(key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
        return [folder.name for folder in found]

    def publish_base(self, directory: Path) -> Release:
        """Verify a release, and copy it into `bases` under its version; it serves no one yet.

        Files that the last base has too are linked to it, so that a large reasoner is there once.
        """
        release = Release.load(directory)
        target = self.base_dir(release.version)
        draft = target.with_name(target.name + ".draft")
        if not target.exists():
            held = self._files_of_last_base()
            shutil.rmtree(draft, ignore_errors=True)
            for name, sha256 in release.manifest.files.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                if sha256 in held:
                    link_or_copy(held[sha256], draft / name)
                else:
                    copy_durably(directory / name, draft / name)
            copy_durably(directory / "manifest.json", draft / "manifest.json")
            draft.replace(target)
        self._date_last(target)
        sync_folder(target.parent)
        return Release.load(target)

    def _date_last(self, target: Path) -> None:
        """Give a base a time behind all others: the clock of a file system may stand for 4 ms."""
        others = [folder for folder in self.path.glob("bases/*") if folder != target]
        newest_ns = max((folder.stat().st_mtime_ns for folder in others), default=0)
        at_ns = max(time.time_ns(), newest_ns + 1)
        os.utime(target, ns=(at_ns, at_ns))

    def add_delta(self, delta: Delta) -> LiveVersion:
        """Write the next delta of a base, and return the version that ends with it.

        After a rollback it replaces the deltas that no pointer names any more.

        Raises InvalidRelease unless the delta before it is its parent, or if a pointer names a
        delta in its place.
        """
        header = delta.header
        before = self.version(header.base, header.number - 1)
        file = self.delta_file(header.base, header.number)
        if before.sha256 != header.parent:
            raise InvalidRelease(
                f"{file}: parent {header.parent or 'none'}, expected {before.sha256 or 'none'}"
            )
        for served in self._served():
            if served.base == header.base and served.deltas >= header.number:
                raise InvalidRelease(f"{file}: the pointer names delta {served.deltas}")
        file.parent.mkdir(parents=True, exist_ok=True)
        sha256 = delta.write(file)
        for later in sorted(file.parent.glob("*.safetensors")):
            if later.name > file.name:
                later.unlink()
        return LiveVersion(header.base, header.number, sha256)

    def num_deltas(self, base: str) -> int:
        """Count the deltas of a base."""
        return sum(1 for _ in self.delta_file(base, 1).parent.glob("*.safetensors"))

    def version(self, base: str, deltas: int) -> LiveVersion:
        """Return the version of a base with its first `deltas` deltas, as for a rollback.

        Raises InvalidRelease if this folder does not have them.
        """
        if not self.base_dir(base).is_dir():
            raise InvalidRelease(f"{self.base_dir(base)}: no such base, expected a release")
        if not deltas:
            return LiveVersion(base, 0, "")
        file = self.delta_file(base, deltas)
        if not file.is_file():
            raise InvalidRelease(f"{file}: no such delta, {base} has {self.num_deltas(base)}")
        return LiveVersion(base, deltas, digest(file))

    def pointer(self) -> ModelPointer | None:
        """Read the pointer; None if there is none yet. Raises InvalidRelease."""
        file = self.path / _POINTER
        try:
            return ModelPointer.decode(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, InvalidRecord) as exc:
            raise InvalidRelease(f"{file}: {one_line(exc)}") from exc

    def move(self, pointer: ModelPointer) -> None:
        """Make versions live for all that read this folder.

        Raises:
            InvalidRelease: the folder does not hold what it names.
            ManifestConflict: its epoch is not above that of the pointer before it.
        """
        for version in pointer.versions:
            if self.version(version.base, version.deltas) != version:
                file = self.delta_file(version.base, version.deltas)
                raise InvalidRelease(f"{file}: another SHA-256 than {version.sha256[:12]}...")
        held = self.pointer()
        if held is not None and held.epoch >= pointer.epoch:
            raise ManifestConflict(
                f"{self.path / _POINTER}: epoch {pointer.epoch}, expected above {held.epoch}"
            )
        write_durably(self.path / _POINTER, pointer.encode())

    def keep(self, num_bases: int) -> list[str]:
        """Remove all but the last bases, with their deltas; return the removed ones.

        A base that the pointer names stays, and one that a reader holds.
        """
        used = {version.base for version in self._served()} | self._held()
        removed = [base for base in self.bases()[num_bases:] if base not in used]
        for base in removed:
            shutil.rmtree(self.delta_file(base, 1).parent, ignore_errors=True)
            shutil.rmtree(self.base_dir(base))
        return removed

    def hold(self, base: str) -> None:
        """Keep a base for a day, instead of the one that this process held before.

        For readers that go on reading its files; a folder that they cannot write holds nothing.
        """
        file = self.path / "readers" / f"{socket.gethostname()}-{os.getpid()}"
        with suppress(OSError):
            file.parent.mkdir(exist_ok=True)
            file.write_text(base)

    def _held(self) -> set[str]:
        """Return the bases that readers hold, and forget readers that have ended."""
        bases = set()
        for file in self.path.glob("readers/*"):
            with suppress(OSError):
                if time.time() < file.stat().st_mtime + _HELD_S:
                    bases.add(file.read_text())
                else:
                    file.unlink()
        return bases

    def _files_of_last_base(self) -> dict[str, Path]:
        """Return the files of the last published base by their SHA-256."""
        for base in self.bases()[:1]:
            with suppress(InvalidRelease):
                release = Release.load(self.base_dir(base))
                files = release.manifest.files.items()
                return {sha256: release.directory / name for name, sha256 in files}
        return {}

    def _served(self) -> frozenset[LiveVersion]:
        pointer = self.pointer()
        return frozenset() if pointer is None else pointer.versions


@dataclass(frozen=True, eq=False)
class LiveRelease:
    """A base release with deltas applied. No array of it ever changes."""

    release: Release
    weights: Weights  # the tensors of `online.safetensors`, by name
    neighbours: Neighbours | None  # None for a base without a memory
    version: LiveVersion
    watermark: str = "0-0"  # entry in the log of the last event that the deltas have learnt

    @classmethod
    def of(cls, release: Release) -> "LiveRelease":
        """Read a release without deltas. Raises InvalidRelease."""
        file = release.directory / ONLINE
        weights = read_online_weights(file, release.recommender_config)
        version = LiveVersion(release.version, 0, "")
        return cls(release, weights, release.load_neighbours(), version)

    @cached_property
    def label(self) -> str:
        """Name in answers: `name@version`, and `+` with the number of deltas if there are any."""
        suffix = f"+{self.version.deltas}" if self.version.deltas else ""
        return f"{self.release.name}@{self.release.version}{suffix}"


class Advanced(NamedTuple):
    """A live release at another version, and the parts that had to change."""

    live: LiveRelease
    changed: Changed


def load_live(folder: LiveFolder, version: LiveVersion) -> LiveRelease:
    """Load and verify a version: its base, then delta after delta. Raises InvalidRelease."""
    release = Release.load(folder.base_dir(version.base))
    if release.version != version.base:
        raise InvalidRelease(
            f"{release.directory}: version {release.version}, expected {version.base}"
        )
    return _apply(LiveRelease.of(release), folder, version)


def advance(live: LiveRelease, folder: LiveFolder, version: LiveVersion) -> Advanced:
    """Bring a live release to another version; `live` itself goes on serving unchanged.

    Later deltas of the same base are applied on top. Fewer ones, or others, are applied to the base
    again; another base is loaded. Raises InvalidRelease.
    """
    if version == live.version:
        return Advanced(live, "nothing")
    if version.base != live.version.base:
        return Advanced(load_live(folder, version), "base")
    start = live if _leads_to(live.version, folder, version) else LiveRelease.of(live.release)
    made = _apply(start, folder, version)
    same = all(made.weights[name] is value for name, value in live.weights.items())
    return Advanced(made, "counts" if same or _equal(made, live) else "weights")


def carried_delta(
    folder: LiveFolder, version: LiveVersion, base: Release, *, made_ms: int
) -> Delta | None:
    """Return all deltas of a version as the first delta of another base with the same online part.

    None for a version without deltas. Raises InvalidRelease.
    """
    if not version.deltas:
        return None
    start = LiveRelease.of(Release.load(folder.base_dir(version.base)))
    live, lists = _apply(start, folder, version), ChangedLists()
    for delta, _ in _read_steps(start, folder, version):
        if delta.counts is not None:
            lists.add(delta.counts)
    weights = between(LiveRelease.of(base).weights, live.weights)
    header = DeltaHeader(
        base=base.version,
        number=1,
        parent="",
        watermark=live.watermark,
        made_ms=made_ms,
    )
    return Delta(header, lists.merged() if len(lists) else None, weights)


def resolve_release(path: Path) -> Path:
    """Return the directory of the base that a live folder points to, and hold it for reading.

    Other paths are returned as they are.
    """
    folder = LiveFolder(path)
    pointer = folder.pointer()
    if pointer is None:
        return path
    folder.hold(pointer.base)
    return folder.base_dir(pointer.base)


def has_same_online_part(one: LiveRelease, other: LiveRelease) -> bool:
    """Tell if two versions give every user the same answers: they differ in the reasoner alone."""
    return (
        one.version.base != other.version.base
        and one.release.catalog.item_ids == other.release.catalog.item_ids
        and np.array_equal(one.release.catalog.sids, other.release.catalog.sids)
        and one.weights.keys() == other.weights.keys()
        and _equal(one, other)
        and _equal_lists(one.neighbours, other.neighbours)
    )


def _equal_lists(one: Neighbours | None, other: Neighbours | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.settings == other.settings and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("first", "neighbour_P", "weight_P")
    )


def _leads_to(held: LiveVersion, folder: LiveFolder, version: LiveVersion) -> bool:
    """Tell if the folder's chain of deltas still goes through the held version."""
    return held.deltas < version.deltas and folder.version(held.base, held.deltas) == held


def _equal(one: LiveRelease, other: LiveRelease) -> bool:
    return all(np.array_equal(value, other.weights[name]) for name, value in one.weights.items())


def _apply(live: LiveRelease, folder: LiveFolder, version: LiveVersion) -> LiveRelease:
    """Apply the deltas after those that a release has, up to a version of the same base."""
    steps = list(_read_steps(live, folder, version))
    found = steps[-1].sha256 if steps else live.version.sha256
    if found != version.sha256:
        file = folder.delta_file(version.base, version.deltas)
        raise InvalidRelease(f"{file}: SHA-256 {found[:12]}..., expected {version.sha256[:12]}...")
    weights, lists, watermark = live.weights, ChangedLists(), live.watermark
    for delta, _ in steps:
        watermark = delta.header.watermark
        if delta.weights is not None:
            weights = apply_weights(weights, delta.weights)
        if delta.counts is not None:
            lists.add(delta.counts)
    neighbours = live.neighbours
    if neighbours is not None and len(lists):
        neighbours = neighbours.patched(*lists.merged())
    return LiveRelease(live.release, weights, neighbours, version, watermark)


def _read_steps(live: LiveRelease, folder: LiveFolder, version: LiveVersion) -> Iterator[ReadDelta]:
    """Read and check the deltas between two versions of one base, each the parent of the next."""
    num_neighbours = live.neighbours.settings.num_neighbours if live.neighbours else 0
    num_items, parent = len(live.release.catalog), live.version.sha256
    for number in range(live.version.deltas + 1, version.deltas + 1):
        file = folder.delta_file(version.base, number)
        step = read_delta(file, base=version.base, number=number, parent=parent)
        check_delta(
            file, step.delta, live.weights, num_items=num_items, num_neighbours=num_neighbours
        )
        yield step
        parent = step.sha256
