"""Replay: the events of a data folder behind a day are the log, and every day is a slice.

Arrival is the time of the event; inside a day events come by user and position. An item is fed on
the day of its first event. The version that a day leaves behind has that day's watermark.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from models.catalog.dataset import Dataset, Interaction
from models.catalog.fed_items import FedItem
from models.errors import InvalidDataset
from models.store.contract import Logged
from models.store.events import Event

DAY_MS = 24 * 3600 * 1000


class Day(NamedTuple):
    """One day of a replay."""

    number: int  # days since 1970
    events: list[Logged]


@dataclass(frozen=True)
class SplitByDay:
    """A data folder up to a day, and the days behind it."""

    learnt: Dataset
    days: list[Day]

    @classmethod
    def of(cls, dataset: Dataset, last_day: int) -> "SplitByDay":
        """Raises InvalidDataset for data without times, or with no event behind the day."""
        if not dataset.has_times:
            raise InvalidDataset("interactions.parquet has no column timestamp, expected one")
        learnt: dict[str, list[Interaction]] = {}
        by_day: dict[int, list[tuple[str, Interaction]]] = defaultdict(list)
        for user_id in sorted(dataset.histories):
            for event in sorted(
                dataset.histories[user_id], key=lambda event: (event.day, event.pos)
            ):
                if event.day <= last_day:
                    learnt.setdefault(user_id, []).append(event)
                else:
                    by_day[event.day].append((user_id, event))
        if not by_day:
            raise InvalidDataset(f"no event behind day {last_day}, expected some")
        days = [Day(day, list(_logged(day, by_day[day]))) for day in sorted(by_day)]
        return cls(replace(dataset, histories=learnt), days)


def fed_item(dataset: Dataset, item_id: str) -> FedItem:
    text = dataset.items[item_id]
    return FedItem(item_id=item_id, title=text.title, brand=text.brand, categories=text.categories)


def _logged(day: int, events: list[tuple[str, Interaction]]) -> Iterator[Logged]:
    """Number the events of a day; all arrive at its beginning."""
    for number, (user_id, event) in enumerate(events):
        event_id = f"{user_id}:{event.pos}"
        logged = Event(event.item_id, event.timestamp, event_id, event.type, event.value)
        yield Logged(f"{day * DAY_MS}-{number}", user_id, logged)
