"""From a data folder to the histories of a store. Doing it twice adds nothing.

Knows nothing of releases or SIDs: items that no release knows yet are imported all the same.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.progress import Progress

from models.catalog.dataset import Interaction, load_dataset
from models.store.contract import UserStore
from models.store.events import Event

_BATCH = 500  # users a round trip
_RULES = 1  # raise it when `to_events` changes


class ImportCounts(BaseModel):
    """What an import did. is_repeat: the store had these data already, so they were not read."""

    model_config = ConfigDict(frozen=True)

    users: int
    events: int
    new_events: int
    is_repeat: bool = False


async def import_dataset(
    data_dir: Path, store: UserStore, progress: Progress, *, again: bool = False
) -> ImportCounts:
    """Append every history of `data_dir`.

    Data that the store remembers as imported whole are not even read, unless `again`: what was
    erased since stays erased, and a service that imports at every start starts at once.

    Raises InvalidDataset, or InvalidUserId and InvalidRecord for ids that a store cannot hold.
    Interrupted, it leaves whole batches behind and can simply be run again.
    """
    digest = _digest(data_dir)
    earlier = _recall(await store.read_import(digest))
    if earlier is not None and not again:
        return earlier.model_copy(update={"new_events": 0, "is_repeat": True})
    dataset = load_dataset(data_dir)
    task = progress.add_task("import", total=len(dataset.histories))
    num_events = num_new = 0
    for batch in _batches(dataset.histories):
        histories = {user_id: to_events(history) for user_id, history in batch.items()}
        num_new += await store.append_histories(histories)
        num_events += sum(len(events) for events in histories.values())
        progress.advance(task, len(batch))
    counts = ImportCounts(users=len(dataset.histories), events=num_events, new_events=num_new)
    await store.mark_import(digest, counts.model_dump_json())
    return counts


def _recall(note: str | None) -> ImportCounts | None:
    """The counts in a note; a note that is not ours is as good as none."""
    try:
        return ImportCounts.model_validate_json(note) if note is not None else None
    except ValidationError:
        return None


def _digest(data_dir: Path) -> str:
    """Of the data themselves and of the rules by which they become events."""
    file = data_dir / "interactions.parquet"
    content = file.read_bytes() if file.is_file() else b""
    return hashlib.sha256(f"{_RULES}\0".encode() + content).hexdigest()


def to_events(history: Sequence[Interaction]) -> list[Event]:
    """The interactions as events, in the order of `pos`.

    Event ids depend on item and time alone (and on a number where both repeat), so that a longer
    export of the same data adds only what is new. A history is ordered by time, and `pos` is the
    order to keep: a time before its predecessor's is raised to it.
    """
    events: list[Event] = []
    seen: dict[tuple[str, int], int] = {}
    latest = 0
    for item_id, timestamp, _ in history:
        repeat = seen[item_id, timestamp] = seen.get((item_id, timestamp), -1) + 1
        latest = max(latest, timestamp)
        events.append(Event(item_id, latest, _event_id(item_id, timestamp, repeat)))
    return events


def _event_id(item_id: str, timestamp: int, repeat: int) -> str:
    text = f"{item_id}\0{timestamp}\0{repeat}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _batches(
    histories: Mapping[str, Sequence[Interaction]],
) -> Iterator[dict[str, Sequence[Interaction]]]:
    left = iter(histories.items())
    while batch := dict(islice(left, _BATCH)):
        yield batch
