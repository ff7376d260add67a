"""Simulated users for Locust: those who come back, those who seldom do, and curious ones.

    locust -f bench/locustfile.py --host http://127.0.0.1:8000 --data data/beauty

Closed loop: a simulated user waits for each answer, so a slow service is asked less. Promises about
latency are measured open loop (`python -m bench latency`). Knows the routes of the service.
"""

import random
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from locust import HttpUser, between, events, task
from locust.env import Environment

from models.dataset import load_dataset

_NUM_HOT = 50


class Population:
    """Users and items of the data folder, read once for all simulated users."""

    cold: list[str]
    hot: list[str]
    item_ids: list[str]

    @classmethod
    def read(cls, data_dir: Path) -> None:
        dataset = load_dataset(data_dir)
        cls.cold = sorted(dataset.histories)
        cls.hot = random.Random(0).sample(cls.cold, min(_NUM_HOT, len(cls.cold)))
        cls.item_ids = sorted(dataset.items)


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--data", default="data/beauty", metavar="DIR", help="users and items")


@events.init.add_listener
def read_population(environment: Environment, **_: Any) -> None:
    Population.read(Path(environment.parsed_options.data))


class Shopper(HttpUser):
    """One simulated visitor, who is another user of the data with every request."""

    wait_time = between(0.1, 0.5)  # seconds

    @task(6)
    def recommend_to_a_hot_user(self) -> None:
        self._recommend(random.choice(Population.hot), name="recommend, hot user")

    @task(3)
    def recommend_to_a_cold_user(self) -> None:
        self._recommend(random.choice(Population.cold), name="recommend, cold user")

    @task(1)
    def ask_why(self) -> None:
        user_id = random.choice(Population.cold)
        self._recommend(user_id, name="recommend, explain", explain="true")

    @task(1)
    def do_something(self) -> None:
        url = f"/events/{quote(random.choice(Population.hot), safe='')}"
        self.client.post(url, json={"item_id": random.choice(Population.item_ids)}, name="event")

    def _recommend(self, user_id: str, *, name: str, **params: str) -> None:
        url = f"/recommend/{quote(user_id, safe='')}"
        self.client.get(url, params={"n": "10", **params}, name=name)
