"""Refusal to judge a release on targets that it has learnt."""

from bench.common.leave_one_out import Split
from models.errors import InvalidSettings
from models.release.release import Release

_FAIR: dict[Split, tuple[str, ...]] = {
    "test": ("held-out", "not the test items"),
    "valid": ("held-out",),
}


def refuse_learnt(release: Release, split: Split) -> None:
    """Raise InvalidSettings for a release that has learnt the targets of a split."""
    if release.manifest.learnt not in _FAIR[split]:
        raise _unfit(release, f"one of {_FAIR[split]} to be judged on the {split} split")


def require_refit(release: Release) -> None:
    """Raise InvalidSettings for a release that has not learnt exactly all but the test items."""
    if release.manifest.learnt != "not the test items":
        raise _unfit(release, "'not the test items' for --refit")


def _unfit(release: Release, expected: str) -> InvalidSettings:
    file = release.directory / "manifest.json"
    return InvalidSettings(f"{file}: learnt {release.manifest.learnt!r}, expected {expected}")
