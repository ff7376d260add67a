"""A learner over the toy world, with a log that the test writes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset, Interaction, ItemText
from models.release.live import LiveFolder
from models.release.release import Release
from models.store.contract import Logged
from models.store.events import Event
from training.learn.catalog_growth import CatalogGrowth
from training.learn.cli import make_grower
from training.learn.feed import FeedBatches
from training.learn.follower import Follower, FollowSettings
from training.learn.histories import Histories
from training.learn.item_growth import catalog_texts
from training.learn.learn_settings import LearnSettings
from training.learn.online_learner import OnlineLearner
from training.learn.publisher import Publisher
from training.learn.saved_state import SavedStates
from training.learn.trial_gates import GateSettings
from training.learn.weight_steps import StepSettings

SLICE_MS = 10_000
NUM_USERS = 40
# The toy model is random, so that learning moves it a lot.
SETTINGS = LearnSettings(
    steps=StepSettings(batch_events=16, passes=1),
    gates=GateSettings(
        least_events=10, old_users=20, slice_margin=1.0, forget_margin=1.0, slowdown=1e9
    ),
)


def toy_dataset(catalog: Catalog, *, seed: int = 0) -> Dataset:
    """Histories of 2 to 8 items, a second apart."""
    rng = np.random.default_rng(seed)
    histories = {
        f"user-{user}": [
            Interaction(str(item), 1000 + pos, pos)
            for pos, item in enumerate(
                rng.choice(catalog.item_ids, size=rng.integers(2, 9), replace=False)
            )
        ]
        for user in range(NUM_USERS)
    }
    return Dataset(histories, catalog_texts(catalog))


def write_toy_data(dataset: Dataset, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    events = [
        (user, event.item_id, event.pos, event.timestamp)
        for user, found in dataset.histories.items()
        for event in found
    ]
    names = ("user_id", "item_id", "pos", "timestamp")
    columns = dict(zip(names, zip(*events, strict=True), strict=True))
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    texts = {
        "item_id": list(dataset.items),
        "title": [text.title for text in dataset.items.values()],
        "categories": [" > ".join(text.categories) for text in dataset.items.values()],
    }
    pq.write_table(pa.table(texts), folder / "items.parquet")


def toy_events(
    catalog: Catalog, num: int, *, seed: int = 0, start_ms: int = 1_000_000
) -> list[Logged]:
    """Events of random users, one each second."""
    rng = np.random.default_rng(seed)
    return [
        logged(start_ms + 1000 * at, f"user-{user}", catalog.item_ids[row])
        for at, (user, row) in enumerate(
            zip(
                rng.integers(NUM_USERS, size=num), rng.integers(len(catalog), size=num), strict=True
            )
        )
    ]


def logged(arrived_ms: int, user_id: str, item_id: str, *, number: int = 0) -> Logged:
    event = Event(item_id, 2000 + arrived_ms // 1000, f"{user_id}:{arrived_ms}-{number}")
    return Logged(f"{arrived_ms}-{number}", user_id, event)


def toy_vectors(items: Mapping[str, ItemText]) -> NDArray[np.float32]:
    """Unit vectors that follow from the titles; instead of a sentence model."""
    rows = [
        np.random.default_rng(sum(map(ord, text.title or ""))).normal(size=4)
        for text in items.values()
    ]
    vectors = np.array(rows, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


class ToyWork:
    """A work folder and a live folder, over which one learner after the other runs."""

    def __init__(self, release: Release, folder: Path, settings: LearnSettings = SETTINGS) -> None:
        self.release, self.folder, self.settings = release, folder, settings
        self.work, self.live = folder / "work", LiveFolder(folder / "live")
        self.items = folder / "items"
        self.items.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self.lines: list[dict[str, Any]] = []
        self.dataset = toy_dataset(release.catalog)

    def follower(
        self, *, erased: Sequence[str] = (), items_every_s: float = 10.0, **settings: Any
    ) -> Follower:
        """Make a learner, as a new process would."""
        histories = Histories(self.dataset, is_erased=lambda user, _: user in erased)
        self.feed = FeedBatches(self.work / "feed", self.items)
        self.growth = CatalogGrowth(
            self.feed,
            lambda: make_grower(self.release, self.work, toy_vectors),
            every_s=items_every_s,
        )
        return Follower(
            OnlineLearner.begin(self.release, histories, self.settings, slice_ms=SLICE_MS),
            self.release,
            Publisher(self.live, keep_bases=5),
            self.work,
            SavedStates(self.work / "states", of="toy"),
            self.growth,
            FollowSettings(**{"slice_ms": SLICE_MS, "states_every": 2, **settings}),
            is_erased=lambda each: each.user_id in erased,
            report=self.lines.append,
        )

    def learn(self, events: Sequence[Logged], **options: Any) -> Follower:
        """Log events, and learn them to the end of the log."""
        follower = self.follower(**options)
        follower.start()
        follower.log.append(events)
        follower.take(events)
        finish(follower)
        return follower


def finish(follower: Follower) -> None:
    follower.settle(None)
    while follower.wait_out():
        pass
    follower.publish()
    follower.save()


def weights_of(follower: Follower) -> bytes:
    """Return all weights, the state of the optimizer and the counts as bytes."""
    learner = follower.learner
    tensors = [
        *learner.weights.accepted.tensors().items(),
        *learner.weights.candidate.tensors().items(),
    ]
    arrays = sorted(learner.counts.arrays().items())
    return b"".join(
        [
            *(value.numpy().tobytes() for _, value in tensors),
            *(value.tobytes() for name, value in arrays if name != "touched"),
        ]
    )


def with_gates(settings: LearnSettings, **gates: Any) -> LearnSettings:
    return replace(settings, gates=replace(settings.gates, **gates))


def pages(events: Sequence[Logged], size: int) -> Iterator[Sequence[Logged]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]
