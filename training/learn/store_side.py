"""The store's side of a learner: reads log, feed and erasures, and writes the model pointer.

A store that is away is waited for: the log is in the stream until it is read.
"""

import logging
import time
from pathlib import Path

from models.durable import write_durably
from models.errors import ManifestConflict
from models.log.tombstones import Tombstones, write_tombstones
from models.release.live import LiveFolder
from models.store.contract import BEGINNING, LearnerStore, Logged
from models.store.model_pointer import ModelPointer
from training.learn.follower import Follower

logger = logging.getLogger(__name__)

_PAGE = 5000  # events


class ErasedUsers:
    """Users that are not learnt: with a tombstone, or waiting to be erased."""

    def __init__(self, work: Path, night: Path | None) -> None:
        """work: keeps tombstones of its own. night: folder of the night, with its tombstones."""
        self._folders = [work] if night is None else [work, night]
        self._seen_file = work / "erasures_seen"  # where the last look at the store ended
        self._tombstones = self._load()
        self._waiting: frozenset[str] = frozenset()

    def hides(self, logged: Logged) -> bool:
        return logged.user_id in self._waiting or self.hides_at(logged.user_id, logged.arrived_ms)

    def hides_at(self, user_id: str, moment_ms: int) -> bool:
        return any(each.hides(user_id, moment_ms) for each in self._tombstones)

    async def look(self, store: LearnerStore, follower: Follower) -> None:
        """Read erasures since the last look; the learner forgets erased users."""
        last = self._seen_file.read_text() if self._seen_file.exists() else BEGINNING
        found = await store.read_erasures(last)
        self._waiting = found.waiting
        if found.erased:
            write_tombstones(self._folders[0], found.erased, now_ms=int(1000 * time.time()))
            self._tombstones = self._load()
            follower.log.forget(found.erased)
            follower.learner.admission.histories.forget(found.erased)
        if found.last != last:
            write_durably(self._seen_file, found.last.encode())

    def _load(self) -> list[Tombstones]:
        return [Tombstones.load(folder) for folder in self._folders]


async def read_events(follower: Follower, store: LearnerStore) -> int:
    """Copy new events of the stream to the durable log, and learn them; return their number."""
    num_events = 0
    while True:
        page = await store.read_log(follower.log_position, _PAGE)
        if page.is_cut:
            logger.error(
                "events behind %s left the stream before they were read: the archive has them, "
                "the next whole training learns them",
                follower.log_position,
            )
        follower.log.append(page.events)
        follower.take(page.events)
        moved, follower.log_position = page.last != follower.log_position, page.last
        num_events += len(page.events)
        if not moved:
            return num_events


class StorePointer:
    """The model pointer in the store, which follows that of the live folder."""

    def __init__(self, folder: LiveFolder) -> None:
        self._folder = folder
        self._written: ModelPointer | None = None
        # Sent without an answer, as to a store that hangs: each may have been written.
        self._sent: list[ModelPointer] = []

    async def follow(self, store: LearnerStore) -> None:
        """Bring the store's pointer to the folder's version.

        Raises ManifestConflict if another process moved the store's pointer, as for a rollback.
        """
        pointer = self._folder.pointer()
        if pointer is None or (self._written and _is_alike(pointer, self._written)):
            return
        held = await store.read_model()
        mine = [each.version for each in (self._written, pointer, *self._sent) if each]
        if self._written and held and held.version not in mine:
            raise ManifestConflict(
                f"the store's model pointer names {held.base}+{held.deltas}, expected "
                f"{self._written.base}+{self._written.deltas}: it stays until the learner starts "
                "again"
            )
        if held is not None and _is_alike(held, pointer):
            self._written, self._sent = held, []
            return
        epoch = max(pointer.epoch, 1 if held is None else held.epoch + 1)
        new = pointer.model_copy(update={"epoch": epoch})
        self._sent.append(new)
        try:
            await store.swap_model(held, new)
        except ManifestConflict:
            self._sent.remove(new)
            raise
        self._written, self._sent = new, []


def _is_alike(one: ModelPointer, other: ModelPointer) -> bool:
    """Tell if two pointers name the same versions, for the same users."""
    return (one.version, one.canary) == (other.version, other.canary)
