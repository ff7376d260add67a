"""Delays of events: from the start of a POST to the answers of every process.

Decides from times and records alone. Knows nothing of files or sockets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.common.results import Row
from bench.freshness.live_versions import Entry, Place
from bench.load.rate_sweep import histogram, percentile_ms


class Seen(NamedTuple):
    """First answer of a process that names a version."""

    at: float  # monotonic, end of the answer
    place: Place  # of the version
    last_counted: Entry  # by the version


class Posted(NamedTuple):
    """An event that a service has taken."""

    event_id: str
    at: float  # monotonic, start of the POST


@dataclass
class Delays:
    """Delays of the events that arrived, and numbers of the others."""

    seconds: list[float] = field(default_factory=list)
    num_dropped: int = 0  # refused by a gate
    num_unseen: int = 0  # by one process at least

    def add(self, seconds: float | None) -> None:
        if seconds is None:
            self.num_unseen += 1
        else:
            self.seconds.append(seconds)

    def row(self, name: str, *, bar_s: float) -> Row:
        """Return a row; it holds if all events were seen, 99% of them within `bar_s`."""
        found = histogram(self.seconds)
        num = len(self.seconds)
        times = {"p50_s": 50, "p99_s": 99, "max_s": 100}
        figures = {key: percentile_ms(found, at) / 1000 for key, at in times.items()}
        holds = num > 0 and not self.num_unseen and figures["p99_s"] <= bar_s
        return {
            "name": name,
            "events": num + self.num_dropped + self.num_unseen,
            "seen": num,
            "dropped": self.num_dropped,
            **(figures if num else {}),
            "bar_s": bar_s,
            "holds": "yes" if holds else "NO",
        }


def count_delays(
    posted: Sequence[Posted], entries: Mapping[str, Entry], processes: Sequence[Sequence[Seen]]
) -> Delays:
    """Measure until the counts of every process hold an event.

    Args:
        entries: of the log, by event id.
        processes: versions that each one answered, in their order.
    """
    delays = Delays()
    for event in posted:
        entry = entries.get(event.event_id)
        delays.add(None if entry is None else _counted_after(event, entry, processes))
    return delays


def weight_delays(
    posted: Sequence[Posted],
    fates: Mapping[str, Place | str],
    processes: Sequence[Sequence[Seen]],
) -> Delays:
    """Measure until the weights of every process hold an event.

    Args:
        fates: by event id, the place of the first version with its weights, "dropped" or "open".
        processes: versions that each one answered, in their order.
    """
    delays = Delays()
    for event in posted:
        fate = fates.get(event.event_id, "open")
        if fate == "dropped":
            delays.num_dropped += 1
        else:
            delays.add(None if isinstance(fate, str) else _reached_after(event, fate, processes))
    return delays


def _counted_after(
    event: Posted, entry: Entry, processes: Sequence[Sequence[Seen]]
) -> float | None:
    return _in_all(event, processes, lambda seen: seen.last_counted >= entry)


def _reached_after(
    event: Posted, place: Place, processes: Sequence[Sequence[Seen]]
) -> float | None:
    return _in_all(event, processes, lambda seen: seen.place >= place)


def _in_all(
    event: Posted, processes: Sequence[Sequence[Seen]], is_enough: Callable[[Seen], bool]
) -> float | None:
    """Return the seconds from the POST to the last process; None if one never got there."""
    firsts = [next((seen.at for seen in each if is_enough(seen)), None) for each in processes]
    known = [at for at in firsts if at is not None]
    return max(known) - event.at if len(known) == len(firsts) else None
