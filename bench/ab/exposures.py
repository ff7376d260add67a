"""Join logs of exposures and events by user, and sum them up for the metrics.

The service logs an exposure for each answer under an experiment. The product logs events: actions
of users. Both are joined by the hash that stands for the user in the service's logs.
"""

import bisect
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidDataset
from models.store.records import hash_user

METRICS = {
    "events_per_user": "events within the window of an exposure, per user",
    "conversion": "share of users with such an event on a recommended item",
    "hits_per_answer": "share of answers with an event on one of their items within the window",
    "recall_at_10": "share of events on one of the last answer's first 10 items",
}
_TOP = 10


class Exposure(NamedTuple):
    """An answer under an experiment."""

    at_s: float  # unix time
    items: tuple[str, ...]


class Action(NamedTuple):
    """An event: an action of a user."""

    at_s: float  # unix time
    item_id: str


@dataclass
class Experiment:
    """Exposures of one experiment."""

    arms: dict[str, dict[str, list[Exposure]]] = field(
        default_factory=dict
    )  # arm -> user -> answers
    shares: dict[str, float] = field(
        default_factory=dict
    )  # of the arms, as the service logged them
    mixed: frozenset[str] = frozenset()  # users seen in several arms, removed from all


class Sums(NamedTuple):
    """A metric as two sums, by user."""

    numerator_U: NDArray[np.float64]
    denominator_U: NDArray[np.float64]


def read_exposures(files: Sequence[Path]) -> dict[str, Experiment]:
    """Read exposures by experiment; all other lines of the logs are skipped.

    Raises InvalidDataset for an exposure with a missing or invalid field.
    """
    found: defaultdict[str, Experiment] = defaultdict(Experiment)
    for where, line in _lines(files):
        if '"experiment"' not in line or (fields := _parse(line)) is None:
            continue
        exposed = found[_need(fields, "experiment", str, where)]
        arm, user = _need(fields, "arm", str, where), _need(fields, "user", str, where)
        shown = Exposure(
            _need(fields, "at_ms", int, where) / 1000, tuple(_need(fields, "items", list, where))
        )
        exposed.shares[arm] = float(fields.get("share", 1.0))
        exposed.arms.setdefault(arm, {}).setdefault(user, []).append(shown)
    for exposed in found.values():
        _remove_mixed(exposed)
    return dict(found)


def read_events(files: Sequence[Path]) -> dict[str, list[Action]]:
    """Read events by user hash, in order of time; a repeated `event_id` of a user is skipped.

    A line has `item_id`, `timestamp` (unix seconds) and either `user_id` or `user` (its hash).
    Raises InvalidDataset, with file and line, for any other line.
    """
    events: defaultdict[str, list[Action]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    for where, line in _lines(files):
        if (fields := _parse(line)) is None:
            raise InvalidDataset(f"{where}: no JSON object")
        if "user" in fields:
            user = _need(fields, "user", str, where)
        else:
            user = f"{hash_user(_need(fields, 'user_id', str, where)):016x}"
        event_id = fields.get("event_id")
        if event_id is not None and (user, event_id) in seen:
            continue
        seen.add((user, str(event_id)))
        at_s = float(_need(fields, "timestamp", (int, float), where))
        events[user].append(Action(at_s, _need(fields, "item_id", str, where)))
    for of_user in events.values():
        of_user.sort()
    return dict(events)


def add_up(
    arm: Mapping[str, Sequence[Exposure]],
    events: Mapping[str, Sequence[Action]],
    *,
    window_s: float,
) -> dict[str, Sums]:
    """Return every metric's sums over the users of one arm."""
    rows = np.array(
        [_count_user(shown, events.get(user, ()), window_s) for user, shown in sorted(arm.items())]
    ).reshape(len(arm), 4)
    ones = np.ones(len(arm))
    num_events, num_recalled, num_hits, num_shown = rows.T
    return {
        "events_per_user": Sums(num_events, ones),
        "conversion": Sums((num_hits > 0).astype(float), ones),
        "hits_per_answer": Sums(num_hits, num_shown),
        "recall_at_10": Sums(num_recalled, num_events),
    }


def _count_user(
    shown: Sequence[Exposure], events: Sequence[Action], window_s: float
) -> list[float]:
    """Return four counts of one user.

    These are: events within the window, events on one of the last answer's first 10 items, answers
    with a hit, answers.
    """
    answers = sorted(shown)
    times = [answer.at_s for answer in answers]
    num_events = num_recalled = 0
    hits: set[int] = set()
    for event in events:
        last = bisect.bisect_right(times, event.at_s) - 1
        if last < 0 or event.at_s - times[last] > window_s:
            continue
        num_events += 1
        num_recalled += event.item_id in answers[last].items[:_TOP]
        first = bisect.bisect_left(times, event.at_s - window_s)
        hits.update(at for at in range(first, last + 1) if event.item_id in answers[at].items)
    return [num_events, num_recalled, len(hits), len(answers)]


def _remove_mixed(exposed: Experiment) -> None:
    seen: set[str] = set()
    mixed: set[str] = set()
    for users in exposed.arms.values():
        mixed |= seen & users.keys()
        seen |= users.keys()
    for users in exposed.arms.values():
        for user in mixed & users.keys():
            del users[user]
    exposed.mixed = frozenset(mixed)


def _lines(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield lines that are not blank, each with file and line number."""
    for file in files:
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield f"{file}:{number}", line
        except OSError as exc:
            raise InvalidDataset(f"{file}: cannot be read: {exc.strerror}") from exc


def _parse(line: str) -> dict[str, Any] | None:
    """Parse the object at the end of a line: text logs of the service begin with time and level."""
    try:
        parsed = json.loads(line[line.index("{") :])
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _need(fields: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidDataset(f"{where}: {name} is {value!r}")
    return value
