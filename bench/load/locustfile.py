"""Simulated users for Locust: who comes to a shop, and what they do there.

    locust -f bench/load/locustfile.py --host http://127.0.0.1:8000 --data data/beauty

    of 10   who            does
    5       `Regular`      one of 50 users: looks, pages on, opens something, looks again
    3       `Occasional`   one of all users, whose history is seldom kept: looks, perhaps pages on
    1       `Stranger`     an id that nobody knows: looks
    1       `Curious`      one of all users: asks why

An answer that is no answer counts as a failure: nothing in it, an item twice over the pages, or one
that the visitor has just opened. Closed loop: a visitor waits for each answer, so a slow service is
asked less. Promises about latency are measured open loop (`python -m bench latency`). Knows the
routes of the service; a key for them comes from THINKAHEAD_API_KEY.
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
_GOES_ON = 0.5  # to the next page, of those who look
_OPENS = 0.4  # something of the page, of regulars


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
    # gevent's clock stood still meanwhile, and a short --run-time would be over at once (2.47)
    time.sleep(0.01)


class Visitor(HttpUser):
    """What all of them can do; each visit is another user's."""

    abstract = True
    wait_time = between(0.1, 0.5)  # seconds between visits

    def on_start(self) -> None:
        if key := os.environ.get("THINKAHEAD_API_KEY"):
            self.client.headers["Authorization"] = f"Bearer {key}"

    def browse(self, user_id: str, who: str, *, opened: str | None = None) -> list[str]:
        """Item ids of the pages that the visitor looks at; the first page names the request."""
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
        """The answer, {} if there was none; what must not be in it fails the request."""
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
