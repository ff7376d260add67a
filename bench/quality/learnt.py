"""Refusals to judge a release: on targets that it has learnt, or without evidence that it reads."""

from bench.common.leave_one_out import Split
from models.errors import InvalidSettings
from models.reasoner.think import reads_evidence
from models.release.release import Learns, Release

_FAIR: dict[Split, tuple[Learns, ...]] = {
    "test": (Learns.HELD_OUT, Learns.NOT_THE_TEST),
    "valid": (Learns.HELD_OUT,),
}


def refuse_learnt(release: Release, split: Split) -> None:
    """Raise InvalidSettings for a release that has learnt the targets of a split."""
    if release.manifest.learnt not in _FAIR[split]:
        fair = " or ".join(repr(learns.value) for learns in _FAIR[split])
        raise _unfit(release, f"{fair} to be judged on the {split} split")


def refuse_reader(release: Release) -> None:
    """Raise InvalidSettings for a reasoner that reads evidence, where prompts would have none."""
    if reads_evidence(release.manifest.recipe):
        raise InvalidSettings(
            f"{release.directory}: its reasoner reads evidence, expected [thoughts] evidence = 0 "
            "in its recipe; `bench evidence` judges it"
        )


def require_refit(release: Release) -> None:
    """Raise InvalidSettings for a release that has not learnt exactly all but the test items."""
    if release.manifest.learnt is not Learns.NOT_THE_TEST:
        raise _unfit(release, f"{Learns.NOT_THE_TEST.value!r} for --refit")


def _unfit(release: Release, expected: str) -> InvalidSettings:
    file = release.directory / "manifest.json"
    learnt = release.manifest.learnt.value
    return InvalidSettings(f"{file}: learnt {learnt!r}, expected {expected}")
