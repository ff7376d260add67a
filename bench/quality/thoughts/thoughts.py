"""What a reasoner was asked for, and what it left for each user of an evaluation.

Knows nothing of how it thinks, or of the disk.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.quality.thoughts.no_thought import Manner
from bench.quality.thoughts.path_beams import PathBeams
from models.catalog.sid import Prefix, Sid


@dataclass(frozen=True)
class ThoughtSettings:
    """T paths, beam width m, the cap of C_u and the seed of the samples.

    manner: other than `think` there is one path, which is no thought. widths: if there are any,
    beams of all of these are kept path by path (`width` is one of them), and no whole SIDs.
    """

    paths: int = 5
    width: int = 10
    max_prefixes: int = 100
    seed: int = 0
    manner: Manner = Manner.THINK
    widths: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Without `think` and without no widths, so that thoughts keep their place on disk."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value not in (Manner.THINK, ())}


def without_thought(settings: ThoughtSettings, manner: Manner) -> ThoughtSettings:
    """The same budget in one beam: as wide as all paths together."""
    width = settings.paths * settings.width
    return replace(settings, paths=1, width=width, manner=manner)


@dataclass(frozen=True)
class CaseThoughts:
    """What the reasoner left for one user of an evaluation.

    prefixes: C_u, best first. sids: the beams over whole SIDs of all paths, each by its best path,
    best first: the reasoner alone. paths: all that were sampled, if the settings have widths.
    """

    user_id: str
    texts: tuple[str, ...]
    prefixes: tuple[Prefix, ...]
    sids: tuple[Sid, ...]
    dropped_paths: int
    tokens: int
    paths: tuple[PathBeams, ...] = ()

    @classmethod
    def nothing(cls, user_id: str) -> "CaseThoughts":
        """Of a user without a history."""
        return cls(user_id, (), (), (), 0, 0)


@dataclass(frozen=True)
class Thoughts:
    """One entry per user, in the order asked; seconds are summed over workers and earlier runs."""

    users: list[CaseThoughts]
    seconds: float
