"""Load the releases that the settings name, and replace them while requests are answered.

A new release is loaded, verified and tried while the old one goes on serving. The caller then swaps
the engine by one assignment. Knows nothing of requests.
"""

import logging
from pathlib import Path
from typing import Literal, NamedTuple

from models.errors import InvalidRelease, ReleaseMismatch
from service.recommend.engine import MIB, Engine, limit_garbage_collection, load_engine, self_test
from service.settings import ServiceSettings

logger = logging.getLogger(__name__)


class Renewal(NamedTuple):
    """Result of one look at a release directory."""

    engine: Engine  # to serve with from now on; the old one unless the outcome is `taken`
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
    """Load and try the releases that arms of experiments name. Return them by directory.

    Raises InvalidRelease, and ReleaseMismatch for a release of another SID space than `engine`.
    """
    named = {arm.release for each in settings.experiments for arm in each.arms if arm.release}
    arms = {path: _load(settings, path) for path in sorted(named)}
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
        engine = _load(settings, release_dir)
        if engine.label == current.label:
            return Renewal(current, "unchanged")
        _check_space(engine, current)
        self_test(engine)
        limit_garbage_collection()
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
