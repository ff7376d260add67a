"""Simulated visitors of a shop, for Locust.

    locust -f bench/load/locustfile.py --host http://127.0.0.1:8000 --data data/beauty

    of 10   visitor        user and actions
    5       `Regular`      one of 50 users: looks, pages on, opens an item, looks again
    3       `Occasional`   any user, with a history that is seldom cached: looks, may page on
    1       `Stranger`     an unknown id: looks
    1       `Curious`      any user: asks for reasons

An answer counts as a failure if it is empty, repeats an item of an earlier page, or has the item
that the visitor has just opened. The loop is closed: a visitor waits for each answer, so a slow
service gets fewer requests. Promises about latency are measured open loop (`python -m bench
latency`). Knows the routes of the service; THINKAHEAD_API_KEY is the key for them.
"""

import os
import random
import time
from argparse import ArgumentParser
from collections.abc import Set
from pathlib import Path
from typing import Any
from urllib.parse import quote

from locust import HttpUser, between, events, task
from locust.env import Environment

from models.catalog.dataset import load_dataset

_NUM_HOT = 50
_PAGE = 10  # items
_MAX_PAGES = 4
_GOES_ON = 0.5  # probability of a further page
_OPENS = 0.4  # probability that a regular opens an item


class Population:
    """Users of the data folder, read once for all visitors."""

    all: list[str]
    hot: list[str]

    @classmethod
    def read(cls, data_dir: Path) -> None:
        cls.all = sorted(load_dataset(data_dir).histories)
        cls.hot = random.Random(0).sample(cls.all, min(_NUM_HOT, len(cls.all)))


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--data", default="data/beauty", metavar="DIR", help="users")


@events.init.add_listener
def read_population(environment: Environment, **_: Any) -> None:
    Population.read(Path(environment.parsed_options.data))
    # gevent's clock stood still during the read, and a short --run-time would end at once (2.47)
    time.sleep(0.01)


class Visitor(HttpUser):
    """Base of all visitors; each visit is by another user."""

    abstract = True
    wait_time = between(0.1, 0.5)  # seconds between visits

    def on_start(self) -> None:
        if key := os.environ.get("THINKAHEAD_API_KEY"):
            self.client.headers["Authorization"] = f"Bearer {key}"

    def browse(self, user_id: str, who: str, *, opened: str | None = None) -> list[str]:
        """Look at some pages and return their item ids; Locust counts the first page as `who`."""
        shown: list[str] = []
        cursor: str | None = None
        for page in range(_MAX_PAGES):
            name = who if page == 0 else "next page"
            answer = self.recommend(user_id, name=name, seen={*shown, opened}, cursor=cursor)
            shown += [item["item_id"] for item in answer.get("items", [])]
            cursor = answer.get("next_cursor")
            if cursor is None or random.random() > _GOES_ON:
                break
        return shown

    def recommend(
        self,
        user_id: str,
        *,
        name: str,
        seen: Set[str | None] = frozenset(),
        cursor: str | None = None,
        **params: str,
    ) -> dict[str, Any]:
        """Ask for a page and return the answer, {} for an error.

        An empty first page and an item of `seen` are reported as failures.
        """
        asked = {"n": str(_PAGE), **params} | ({"cursor": cursor} if cursor else {})
        url = f"/recommend/{quote(user_id, safe='')}"
        with self.client.get(url, params=asked, name=name, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return {}
            answer: dict[str, Any] = response.json()
            found = [item["item_id"] for item in answer["items"]]
            if not found and cursor is None:
                response.failure("an empty first page")
            elif again := seen & set(found):
                response.failure(f"{len(again)} items that were shown or opened before")
            return answer

    def open_item(self, user_id: str, item_id: str) -> None:
        url = f"/events/{quote(user_id, safe='')}"
        self.client.post(url, json={"item_id": item_id}, name="event")


class Regular(Visitor):
    weight = 5

    @task
    def visit(self) -> None:
        user_id = random.choice(Population.hot)
        shown = self.browse(user_id, "hot user")
        if shown and random.random() < _OPENS:
            opened = random.choice(shown)
            self.open_item(user_id, opened)
            self.browse(user_id, "hot user", opened=opened)


class Occasional(Visitor):
    weight = 3

    @task
    def visit(self) -> None:
        self.browse(random.choice(Population.all), "cold user")


class Stranger(Visitor):
    weight = 1

    @task
    def visit(self) -> None:
        self.browse(f"stranger {random.getrandbits(64):016x}", "stranger")


class Curious(Visitor):
    weight = 1

    @task
    def ask_why(self) -> None:
        user_id = random.choice(Population.all)
        self.recommend(user_id, name="why", explain="true")
