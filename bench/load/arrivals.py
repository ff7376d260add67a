"""Seeded requests of one open-loop run: times, users and routes.

Knows the routes of the service and distributions. Knows nothing of sockets or clocks.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from bench.load.http_connection import render

Kind = Literal["recommend", "event"]


class Request(NamedTuple):
    """One request of a run."""

    due_s: float  # intended send time, seconds from the start of the run
    kind: Kind
    payload: bytes  # the rendered HTTP request


@dataclass(frozen=True)
class Mix:
    """Distribution of requests."""

    user_ids: Sequence[str]  # most active first
    item_ids: Sequence[str]  # of the events
    skew: float = 0.8  # the user of rank r is drawn with weight r ** -skew
    event_share: float = 0.05  # share of events; the other requests are recommendations
    num_items: int = 10  # of a recommendation


def draw_requests(mix: Mix, *, rate: int, seconds: float, seed: int) -> list[Request]:
    """Draw round(rate * seconds) requests, in order of their send time."""
    rng = np.random.default_rng([seed, rate])
    due = arrival_times(round(rate * seconds), seconds, rng)
    users = rng.choice(len(mix.user_ids), size=len(due), p=skewed(len(mix.user_ids), mix.skew))
    items = rng.integers(len(mix.item_ids), size=len(due))
    is_event = rng.random(len(due)) < mix.event_share
    return [
        _event(at, mix.user_ids[user], mix.item_ids[item])
        if posts
        else _recommend(at, mix.user_ids[user], mix.num_items)
        for at, user, item, posts in zip(
            due.tolist(), users.tolist(), items.tolist(), is_event.tolist(), strict=True
        )
    ]


def arrival_times(num: int, seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a Poisson process with a fixed number of arrivals: sorted uniform times.

    With a random number, a short run would offer some percent more or less than its rate, and a
    goodput of 95% of the rate would mean nothing.
    """
    return np.sort(rng.uniform(0.0, seconds, size=num))


def skewed(num: int, skew: float) -> NDArray[np.float64]:
    """Return Zipf-like probabilities of ranks 1..num."""
    weights = np.power(np.arange(1, num + 1, dtype=np.float64), -skew)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def _recommend(due_s: float, user_id: str, num_items: int) -> Request:
    target = f"/recommend/{quote(user_id, safe='')}?n={num_items}"
    return Request(due_s, "recommend", render("GET", target))


def _event(due_s: float, user_id: str, item_id: str) -> Request:
    body = json.dumps({"item_id": item_id}).encode()
    return Request(due_s, "event", render("POST", f"/events/{quote(user_id, safe='')}", body=body))
