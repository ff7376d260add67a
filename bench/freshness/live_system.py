"""A serving system that learns: a store, two services and a learner, as a user starts them.

FOLDER/live/          live folder that the services follow
FOLDER/work/          of the learner
FOLDER/items/         its feed
FOLDER/slices.jsonl   its lines
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from bench.common.service_process import ModuleProcess, ServiceProcess, StepFailedError
from bench.freshness.live_versions import LiveVersions, Place, find_version
from bench.freshness.slice_lines import SliceLine, read_lines
from models.catalog.fed_items import FedItem
from models.release.live import LiveFolder

NUM_SERVICES = 2
_START_TIMEOUT_S = 120.0
_FED_TIMEOUT_S = 1800.0  # the sentence model embeds the catalog before the first new item
_POLL_S = 0.2
_WARM_UP_ITEM = FedItem(item_id="warm-up-item", title="An item that warms the learner up")

Found = TypeVar("Found")


@dataclass(frozen=True)
class LiveSystem:
    """Running processes and their folders."""

    services: Sequence[ServiceProcess]
    learner: ModuleProcess
    folder: Path
    asked: str  # id of the user in requests that ask for the version

    @property
    def versions(self) -> LiveVersions:
        return LiveVersions(LiveFolder(self.folder / "live"))

    def lines(self) -> list[SliceLine]:
        return read_lines(self.folder / "slices.jsonl")

    def feed(self, item: FedItem) -> None:
        """Write a file of the feed; it appears whole."""
        draft = self.folder / "items" / f"{item.item_id}.draft"
        draft.write_bytes(item.encode() + b"\n")
        draft.rename(draft.with_suffix(".jsonl"))

    def warm_up(self) -> float:
        """Feed a first item; return the seconds until every service has it in its catalog."""
        started_at, versions = time.monotonic(), self.versions
        self.feed(_WARM_UP_ITEM)

        def fed_at() -> Place | None:
            versions_with_it = (line.published for line in self.lines() if line.items)
            found = next((each for each in versions_with_it if each is not None), None)
            return None if found is None else versions.place(found)

        place = self._wait_for("a base with the first new item", fed_at, _FED_TIMEOUT_S)
        self._wait_for(
            "answers with the first new item",
            lambda: all(self._answers(each, place, versions) for each in self.services) or None,
            _START_TIMEOUT_S,
        )
        return time.monotonic() - started_at

    def wait_for_first_base(self) -> None:
        live = LiveFolder(self.folder / "live")
        self._wait_for("the first base", live.pointer, _START_TIMEOUT_S)

    def _answers(self, service: ServiceProcess, place: Place, versions: LiveVersions) -> bool:
        try:
            found = find_version(httpx.get(f"{service.url}/recommend/{self.asked}?n=1").content)
        except httpx.TransportError:
            return False
        return found is not None and versions.place(found) >= place

    def _wait_for(self, what: str, find: Callable[[], Found | None], timeout_s: float) -> Found:
        """Return what is found. Raises StepFailedError if the learner ends or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.learner.wait(0) is None:
            if (found := find()) is not None:
                return found
            time.sleep(_POLL_S)
        raise StepFailedError(f"no sign of {what}; the learner said: {self.learner.last_line()}")


@contextmanager
def open_system(
    folder: Path,
    *,
    release: Path,
    data: Path,
    redis_url: str,
    asked: str,
    text_vectors: Path | None,
) -> Iterator[LiveSystem]:
    """Start all processes on an imported store, and wait until they work.

    text_vectors: file that an earlier learner made of the release's texts; None lets it make one.
    """
    for name in ("items", "work"):
        (folder / name).mkdir()
    if text_vectors is not None:
        shutil.copyfile(text_vectors, folder / "work" / "text_vectors.safetensors")
    (folder / "slices.jsonl").touch()
    common = ["--release", str(release), "--live", str(folder / "live"), "--redis", redis_url]
    learner = ModuleProcess(
        "training",
        [
            *("learn", "--follow", *common, "--data", str(data)),
            *("--work", str(folder / "work"), "--items", str(folder / "items")),
        ],
        log=folder / "learner.log",
        output=folder / "slices.jsonl",
    )
    with ExitStack() as stack:
        services = [
            stack.enter_context(ServiceProcess(common, log=folder / f"service-{number}.log"))
            for number in range(NUM_SERVICES)
        ]
        for service in services:
            service.wait_until_ready()
        system = LiveSystem(services, stack.enter_context(learner), folder, asked)
        system.wait_for_first_base()
        yield system
