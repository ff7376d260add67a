"""Who asks for what and when: the seeded requests of one open-loop run.

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
    """due_s: when it is meant to be sent, seconds from the start of the run."""

    due_s: float
    kind: Kind
    payload: bytes


@dataclass(frozen=True)
class Mix:
    """What is asked.

    user_ids: most active first. skew: the user of rank r is drawn with weight r ** -skew.
    event_share: of the requests; the others ask for num_items recommendations.
    """

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    skew: float = 0.8
    event_share: float = 0.05
    num_items: int = 10


def draw_requests(mix: Mix, *, rate: int, seconds: float, seed: int) -> list[Request]:
    """round(rate * seconds) requests in order of their time."""
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
    """A Poisson process of which the number of arrivals is known: sorted uniform times.

    Were the number random too, a short run would offer some percent more or less than its rate,
    and a goodput of 95% of it would mean nothing.
    """
    return np.sort(rng.uniform(0.0, seconds, size=num))


def skewed(num: int, skew: float) -> NDArray[np.float64]:
    """Zipf-like probabilities of ranks 1..num."""
    weights = np.power(np.arange(1, num + 1, dtype=np.float64), -skew)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def _recommend(due_s: float, user_id: str, num_items: int) -> Request:
    target = f"/recommend/{quote(user_id, safe='')}?n={num_items}"
    return Request(due_s, "recommend", render("GET", target))


def _event(due_s: float, user_id: str, item_id: str) -> Request:
    body = json.dumps({"item_id": item_id}).encode()
    return Request(due_s, "event", render("POST", f"/events/{quote(user_id, safe='')}", body=body))
