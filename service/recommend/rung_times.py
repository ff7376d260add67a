"""How long a rung takes, as far as one can tell from how long it took.

Written where the rungs run. Knows nothing of what they do.
"""

from service.sources import Source

_WEIGHT = 0.2  # of the newest time
_BRIEF_S = 0.0005  # about what handing a job to another thread and back costs at the worst
_DOUBT = 0.95  # of an estimate that kept a rung from being tried: a stall does not bar it for ever


class Pace:
    """Moving averages in seconds, one a rung; nothing is expected of a rung not yet seen.

    By the clock, and of work: a thread that is kept from its core for a while takes no more of it.
    """

    def __init__(self) -> None:
        self._expected_s: dict[Source, float] = {}
        self._work_s: dict[Source, float] = {}

    def expected_s(self, source: Source) -> float:
        return self._expected_s.get(source, 0.0)

    def is_brief(self, source: Source) -> bool:
        """Whether a rung is known to be less work than a thread would have to take it over."""
        return self._work_s.get(source, _BRIEF_S) < _BRIEF_S

    def took(self, source: Source, seconds: float, *, work_s: float) -> None:
        """work_s: CPU time."""
        _follow(self._expected_s, source, seconds)
        _follow(self._work_s, source, work_s)

    def was_skipped(self, source: Source) -> None:
        self._expected_s[source] = self.expected_s(source) * _DOUBT


def _follow(averages: dict[Source, float], source: Source, newest: float) -> None:
    before = averages.get(source, newest)
    averages[source] = before + _WEIGHT * (newest - before)
