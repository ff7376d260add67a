"""Settings of a reasoner in an evaluation, and its results per user.

Knows nothing of engines or of the disk.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.quality.thoughts.no_thought import Manner
from bench.quality.thoughts.path_beams import PathBeams
from models.catalog.sid import Prefix, Sid
from models.reasoner.think import PathPrefix


@dataclass(frozen=True)
class ThoughtSettings:
    """Budget and manner of thinking."""

    paths: int = 5  # T
    width: int = 10  # m, beams per path
    max_prefixes: int = 100  # cap of C_u
    seed: int = 0  # of the samples
    manner: Manner = Manner.THINK  # any other manner has one path, without a thought
    # If not empty, beams of all these widths are kept path by path, and no whole SIDs are searched.
    # `width` must be among them.
    widths: tuple[int, ...] = ()
    device: str = "cpu"  # of the reasoner
    dtype: str = "float32"  # its numbers

    def to_json(self) -> dict[str, Any]:
        """Return what decides the thoughts, without defaults: old cache folders stay valid."""
        values = asdict(self)
        del values["device"]
        defaults = (Manner.THINK, (), "float32")
        return {name: value for name, value in values.items() if value not in defaults}


def without_thought(settings: ThoughtSettings, manner: Manner) -> ThoughtSettings:
    """Return settings with one beam as wide as all paths together."""
    width = settings.paths * settings.width
    return replace(settings, paths=1, width=width, manner=manner)


@dataclass(frozen=True)
class CaseThoughts:
    """Results of the reasoner for one user of an evaluation."""

    user_id: str
    texts: tuple[str, ...]  # thoughts that closed
    found: tuple[PathPrefix, ...]  # C_u, best first
    sids: tuple[Sid, ...]  # whole SIDs of all paths, each by its best path, best first
    dropped_paths: int  # paths that did not close
    tokens: int  # sampled
    paths: tuple[PathBeams, ...] = ()  # all sampled paths, if the settings have widths

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """Return the codes of C_u, best first."""
        return tuple(prefix.codes for prefix in self.found)

    @classmethod
    def nothing(cls, user_id: str) -> "CaseThoughts":
        """Return the empty result of a user without a history."""
        return cls(user_id, (), (), (), 0, 0)


@dataclass(frozen=True)
class Thoughts:
    """Thoughts of many users."""

    users: list[CaseThoughts]  # in the order of the request
    seconds: float  # summed over workers and earlier runs
