"""The releases that the settings name, and others in their place while requests are answered.

The new one is loaded, verified and tried beside the old one; whoever holds the engine swaps it by
one assignment. Knows nothing of requests.
"""

import logging
from pathlib import Path
from typing import Literal, NamedTuple

from models.errors import InvalidRelease, ReleaseMismatch
from service.recommend.engine import MIB, Engine, load_engine, self_test, spare_collections
from service.settings import ServiceSettings

logger = logging.getLogger(__name__)


class Renewal(NamedTuple):
    """engine: the one to serve from now on; the old one unless the outcome is `taken`."""

    engine: Engine
    outcome: Literal["taken", "unchanged", "refused"]


def load_configured(settings: ServiceSettings) -> Engine:
    """Raises InvalidRelease."""
    return _load(settings, settings.release_dir)


def _load(settings: ServiceSettings, release_dir: Path) -> Engine:
    return load_engine(
        release_dir,
        precision=settings.precision,
        history_cache_bytes=settings.history_cache_mb * MIB,
        candidates_limit=settings.copies_limit,
    )


def load_arms(settings: ServiceSettings, engine: Engine) -> dict[Path, Engine]:
    """The releases that arms of experiments name, each tried.

    Raises InvalidRelease, ReleaseMismatch for one of another SID space than the engine's.
    """
    named = {arm.release for each in settings.experiments for arm in each.arms if arm.release}
    arms = {path: _load(settings, path) for path in sorted(named)}
    for arm in arms.values():
        _check_space(arm, engine)
        self_test(arm)
    return arms


def renew(settings: ServiceSettings, current: Engine, release_dir: Path) -> Renewal:
    """What this directory holds now, in place of `current`, which came from it, if it can be.

    Not on the thread that finishes: the old engine goes on meanwhile. Never raises.
    """
    try:
        engine = _load(settings, release_dir)
        if engine.label == current.label:
            return Renewal(current, "unchanged")
        _check_space(engine, current)
        self_test(engine)
        spare_collections()
    except InvalidRelease as exc:
        logger.error("reload of %s refused, %s stays: %s", release_dir, current.label, exc)
        return Renewal(current, "refused")
    except Exception:
        logger.exception("reload of %s failed, %s stays", release_dir, current.label)
        return Renewal(current, "refused")
    logger.info("%s takes over from %s", engine.label, current.label)
    return Renewal(engine, "taken")


def _check_space(engine: Engine, current: Engine) -> None:
    """Records and manifest are of one SID space: another one takes a restart."""
    found, expected = engine.catalog.space.fingerprint, current.catalog.space.fingerprint
    if found != expected:
        raise ReleaseMismatch(
            f"{engine.label}: SID space fingerprint {found:016x}, expected {expected:016x}"
        )
