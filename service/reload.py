"""Load the releases that the settings name, and make the engines that replace them.

A new release is loaded, verified and tried while the old one goes on serving. The caller then swaps
the engine by one assignment. `follow` decides which version of a live folder that is. Knows nothing
of requests.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from models.errors import InvalidRelease, ReleaseMismatch
from models.release.live import Changed, LiveFolder, LiveRelease, advance, load_live
from models.release.searchers import load_live_finisher
from models.store.model_pointer import LiveVersion
from service.recommend.engine import (
    MIB,
    Engine,
    Kept,
    load_engine,
    self_test,
)
from service.settings import ServiceSettings

logger = logging.getLogger(__name__)


class Renewal(NamedTuple):
    """Result of one look at a release directory."""

    engine: Engine  # to serve with from now on; the old one unless the outcome is `taken`
    outcome: Literal["taken", "unchanged", "refused"]


def load_configured(settings: ServiceSettings) -> Engine:
    """Load what the settings name: the version of a live folder's pointer, or a release directory.

    The directory serves while the folder has no pointer, and where the pointer's version does not
    load. Raises InvalidRelease.
    """
    if settings.live_dir is None:
        return _load_directory(settings, settings.release_dir)
    try:
        engine = _load_pointed(settings, settings.live_dir)
    except InvalidRelease as exc:
        if settings.release_dir is None:
            raise
        logger.error("%s serves instead of the live folder: %s", settings.release_dir, exc)
        engine = None
    return engine or _load_directory(settings, settings.release_dir)


def is_live_folder(path: Path) -> bool:
    """Return True if a folder has a model pointer, as a release directory has not."""
    return LiveFolder(path).pointer() is not None


def _load_pointed(settings: ServiceSettings, path: Path) -> Engine | None:
    """Load the version that the pointer of a live folder names; None without a pointer."""
    folder = LiveFolder(path)
    pointer = folder.pointer()
    return load_version(settings, folder, pointer.version) if pointer is not None else None


def _load_directory(settings: ServiceSettings, release_dir: Path | None) -> Engine:
    if release_dir is None:
        raise InvalidRelease(
            f"{settings.live_dir}: no pointer.json, expected one, or a release_dir"
        )
    return load_engine(
        release_dir,
        precision=settings.precision,
        history_cache_bytes=settings.history_cache_mb * MIB,
        candidates_limit=settings.copies_limit,
    )


def load_version(settings: ServiceSettings, folder: LiveFolder, version: LiveVersion) -> Engine:
    """Load a version in a live folder from its files. Raises InvalidRelease."""
    return _new_engine(settings, load_live(folder, version))


def _new_engine(settings: ServiceSettings, live: LiveRelease) -> Engine:
    kept = Kept(
        live.release,
        history_cache_bytes=settings.history_cache_mb * MIB,
        candidates_limit=settings.copies_limit,
    )
    return Engine(live.release, load_live_finisher(live, settings.precision), kept, live)


def engine_at(
    settings: ServiceSettings, served: Sequence[Engine], folder: LiveFolder, version: LiveVersion
) -> tuple[Engine, Changed]:
    """Return the engine of another version in a live folder, and what had to change for it.

    Begins with the nearest of the engines in `served`, which go on serving unchanged. Runs on a
    thread other than the model thread. New models are tried before they are returned. Raises
    InvalidRelease, and ReleaseMismatch for a version of another SID space.
    """
    nearest = min(served, key=lambda engine: _distance(engine, version))
    if nearest.live is None or nearest.live.version.base != version.base:
        engine = load_version(settings, folder, version)
        _check_space(engine, nearest)
        self_test(engine)
        return engine, "base"
    live, changed = advance(nearest.live, folder, version)
    if changed == "nothing":
        return nearest, changed
    if changed == "counts":
        return nearest.with_counts(live), changed
    engine = nearest.with_weights(live, load_live_finisher(live, settings.precision))
    self_test(engine)
    return engine, changed


def _distance(engine: Engine, version: LiveVersion) -> tuple[bool, bool, int]:
    """Return a key, smaller for an engine that is made into another version with less work."""
    held = engine.live.version if engine.live is not None else LiveVersion("", 0, "")
    missing = version.deltas - held.deltas
    return (held.base != version.base, missing < 0, missing)


def load_arms(settings: ServiceSettings, engine: Engine) -> dict[Path, Engine]:
    """Load and try the releases that arms of experiments name. Return them by directory.

    Raises InvalidRelease, and ReleaseMismatch for a release of another SID space than `engine`.
    """
    named = {arm.release for each in settings.experiments for arm in each.arms if arm.release}
    arms = {
        path: _load_pointed(settings, path) or _load_directory(settings, path)
        for path in sorted(named)
    }
    for arm in arms.values():
        _check_space(arm, engine)
        self_test(arm)
    return arms


def renew(settings: ServiceSettings, current: Engine, release_dir: Path) -> Renewal:
    """Load the directory that `current` came from, and return the engine to use from now on.

    Runs on a thread other than the model thread, while `current` goes on serving. Raises nothing:
    a bad release is logged and refused.
    """
    try:
        engine = _load_directory(settings, release_dir)
        if engine.label == current.label:
            return Renewal(current, "unchanged")
        _check_space(engine, current)
        self_test(engine)
    except InvalidRelease as exc:
        logger.error("reload of %s refused, %s stays: %s", release_dir, current.label, exc)
        return Renewal(current, "refused")
    except Exception:
        logger.exception("reload of %s failed, %s stays", release_dir, current.label)
        return Renewal(current, "refused")
    logger.info("%s takes over from %s", engine.label, current.label)
    return Renewal(engine, "taken")


def _check_space(engine: Engine, current: Engine) -> None:
    """Raise ReleaseMismatch for another SID space: records and manifest would not fit it.

    Only a restart can change the SID space of a process.
    """
    found, expected = engine.catalog.space.fingerprint, current.catalog.space.fingerprint
    if found != expected:
        raise ReleaseMismatch(
            f"{engine.label}: SID space fingerprint {found:016x}, expected {expected:016x}"
        )
