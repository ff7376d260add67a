"""Python functions of a first use: files in, a release, recommendations with their reasons.

    data = read(["events.csv", "products.csv"], "mine")
    train("mine", "releases/mine", config="fast")
    recommender = Recommender("releases/mine")
    thoughts = recommender.think(["item-3", "item-7"])
    recommender.recommend(["item-3", "item-7"], thoughts=thoughts)

No service and no store: a night and a service do the same for all users (`thinkahead night`).
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from models.catalog.sid import Prefix
from models.errors import InvalidInput, ThinkAheadError
from models.intake.data_folder import write_data
from models.intake.intake import read_data
from models.intake.summary import Summary
from models.release.release import Release
from models.release.searchers import load_finisher

AnyPath = str | PathLike[str]
ONLINE_PREFIXES = 100  # that the online model picks where there are no thoughts


class Recommended(NamedTuple):
    """One item of a list, best first."""

    item_id: str
    title: str | None  # None where the data have none
    score: float  # log-probability and bonus of the memory
    because: tuple[str, ...]  # items of the history that speak most for it


class Thoughts(NamedTuple):
    """What a reasoner thinks about one history."""

    texts: tuple[str, ...]  # one a path
    prefixes: tuple[Prefix, ...]  # C_u: where the next items may lie, best first


def read(files: Sequence[AnyPath], out: AnyPath) -> Summary:
    """Read files of any usual form into a new data folder. Raises InvalidInput."""
    intake = read_data([Path(file) for file in files])
    write_data(intake, Path(out))
    return intake.summary


def train(data: AnyPath, out: AnyPath, *, config: AnyPath = "auto", force: bool = False) -> Release:
    """Train a release of a data folder or file, as `thinkahead train`; a stopped run continues.

    Args:
        config: `auto`, `fast`, or a recipe in TOML.
        force: publish also a model that ranks below a simple row.

    Raises ThinkAheadError; the reason is on stderr.
    """
    from training.__main__ import main  # torch and transformers take seconds

    words = ["all", "--data", str(data), "--out", str(out), "--config", str(config)]
    if code := main([*words, "--force"] if force else words):
        raise ThinkAheadError(f"training ended with exit code {code}; stderr has the reason")
    return Release.load(Path(out))


class Recommender:
    """Both tiers of a release, in this process."""

    def __init__(self, release: AnyPath) -> None:
        """Load and verify a release. Raises InvalidRelease."""
        self.release = Release.load(Path(release))
        self._finisher = load_finisher(self.release)

    def think(self, history: Sequence[str], *, paths: int = 5, width: int = 10) -> Thoughts:
        """Let the reasoner think about a history, oldest item first.

        Args:
            paths: number of thoughts.
            width: prefixes a thought.

        Raises InvalidInput if the release knows none of the items.
        """
        from models.reasoner.think import UserHistory
        from offline.refresh import load_think
        from offline.settings import RefreshSettings

        settings = RefreshSettings(self.release.directory, Path(), paths=paths, width=width)
        think = load_think(self.release, settings)
        (found,) = think([UserHistory("", self._known(history))])
        return Thoughts(found.texts, tuple(prefix.codes for prefix in found.prefixes))

    def recommend(
        self, history: Sequence[str], *, n: int = 10, thoughts: Thoughts | None = None
    ) -> list[Recommended]:
        """Return the best items that are not in the history.

        thoughts: only items below their prefixes; None lets the online model pick the prefixes.
        Raises InvalidInput if the release knows none of the items.
        """
        rows, catalog = self._known(history), self.release.catalog
        state = self._finisher.encode(rows)
        if thoughts is not None and thoughts.prefixes:
            candidates = self._finisher.candidates(thoughts.prefixes)
        else:
            candidates = self._finisher.own_prefixes(state, count=ONLINE_PREFIXES)
        found = self._finisher.finish(state, candidates, k=n, exclude=set(rows))
        return [
            Recommended(
                catalog.item_ids[each.row],
                catalog.titles[each.row],
                each.score,
                tuple(catalog.item_ids[row] for row in each.because),
            )
            for each in found
        ]

    def _known(self, history: Sequence[str]) -> tuple[int, ...]:
        rows = self.release.catalog.rows(history)
        if not rows:
            raise InvalidInput(f"none of {len(history)} items is in {self.release.directory}")
        return tuple(rows)
