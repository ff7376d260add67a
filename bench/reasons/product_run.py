"""The product in a folder of its own: a store, nights and a service, as an operator starts them.

Knows the public commands and HTTP. Knows nothing of what is asked.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from bench.common.service_process import ServiceProcess, StepFailedError, run_module
from models.catalog.dataset import Interaction
from models.store.embedded import attach

_PATIENCE_S = 60.0
# Reasons that come late are left out, and held users get none: both would measure something else.
_ENVIRON = {"THINKAHEAD_REQUEST_BUDGET_MS": "10000", "THINKAHEAD_RUNG_SHARE": "0"}


@dataclass(frozen=True)
class Product:
    """A store with its nights. `serve` answers from it."""

    folder: Path
    release: Path
    redis_url: str

    def import_histories(self, name: str, histories: Mapping[str, Sequence[Interaction]]) -> None:
        """Write histories as a file of events, and import it by the public command."""
        file = self.folder / f"{name}.csv"
        with file.open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["user_id", "item_id", "timestamp"])
            for user_id, history in histories.items():
                rows.writerows([user_id, event.item_id, event.timestamp] for event in history)
        run_module("offline", "import", "--data", str(file), "--redis", self.redis_url)

    def think(self, user_ids: Sequence[str], *, paths: int, width: int) -> None:
        """Run a night for these users: the first one is a base, later ones are deltas."""
        users = [word for user_id in user_ids for word in ("--user", user_id)]
        run_module(
            "offline",
            "refresh",
            *("--release", str(self.release), "--out", str(self.folder / "nights")),
            *("--redis", self.redis_url, "--paths", str(paths), "--width", str(width)),
            *("--force", "a benchmark thinks about a sample", *users),
        )

    @contextmanager
    def serve(self) -> Iterator["Answers"]:
        words = ["--release", str(self.release), "--redis", self.redis_url]
        log = self.folder / "service.log"
        with ServiceProcess(words, log=log, environ=_ENVIRON) as service:
            service.wait_until_ready()
            with httpx.Client(base_url=service.url, timeout=_PATIENCE_S) as client:
                yield Answers(client)


@dataclass(frozen=True)
class Answers:
    """Answers of a running service."""

    client: httpx.Client

    def ask(
        self, user_id: str, *, n: int, exclude: Sequence[str] = (), explain: bool = False
    ) -> dict[str, Any] | None:
        """Return the list of a user; None if the night left no record. Raises StepFailedError."""
        params: dict[str, Any] = {"n": n, "mode": "fused", "exclude": exclude, "explain": explain}
        answer = self.client.get(f"/recommend/{quote(user_id, safe='')}", params=params)
        if answer.status_code != httpx.codes.OK:
            raise StepFailedError(f"{user_id}: {answer.status_code}: {answer.text[:200]}")
        body: dict[str, Any] = answer.json()
        return body if body["source"] == "personal" else None


@contextmanager
def open_product(folder: Path, release: Path) -> Iterator[Product]:
    """Start an embedded store below a folder."""
    with attach(folder / "state") as server:
        yield Product(folder, release, server.url)
