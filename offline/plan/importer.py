"""Import the histories of a data folder into a store. A second import adds nothing.

Knows nothing of releases or SIDs: items that no release knows yet are imported too.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.progress import Progress

from models.catalog.dataset import Dataset, Interaction, load_dataset
from models.intake.data_folder import INTERACTIONS, data_digest
from models.store.contract import UserStore
from models.store.events import Event

_BATCH = 500  # users a round trip
_RULES = 1  # raise it when `to_events` changes


class ImportCounts(BaseModel):
    """Counts of one import."""

    model_config = ConfigDict(frozen=True)

    users: int
    events: int
    new_events: int
    is_repeat: bool = False  # the store has these data already, so they were not read


async def import_dataset(
    data_dir: Path,
    store: UserStore,
    progress: Progress,
    *,
    again: bool = False,
    check: Callable[[Dataset], None] = lambda _: None,
) -> ImportCounts:
    """Append every history of `data_dir`.

    check: called with the data before anything is written.

    Without `again`, data that the store has completely are not read. So users erased since then
    stay erased, and a service that imports at every start is ready at once.

    Raises InvalidDataset, or InvalidUserId and InvalidRecord for ids that a store cannot hold.
    An interrupted import leaves complete batches and can be run again.
    """
    digest = _digest(data_dir)
    earlier = _parse_note(await store.read_import(digest))
    if earlier is not None and not again:
        return earlier.model_copy(update={"new_events": 0, "is_repeat": True})
    dataset = load_dataset(data_dir)
    check(dataset)
    task = progress.add_task("import", total=len(dataset.histories))
    num_events = num_new = 0
    for batch in _batches(dataset.histories):
        histories = {user_id: to_events(history) for user_id, history in batch.items()}
        num_new += await store.append_histories(histories, is_logged=False)
        num_events += sum(len(events) for events in histories.values())
        progress.advance(task, len(batch))
    counts = ImportCounts(users=len(dataset.histories), events=num_events, new_events=num_new)
    await store.mark_import(digest, counts.model_dump_json())
    return counts


def _parse_note(note: str | None) -> ImportCounts | None:
    """Parse the counts in a note; None without a note, or for one in another format."""
    try:
        return ImportCounts.model_validate_json(note) if note is not None else None
    except ValidationError:
        return None


def _digest(data_dir: Path) -> str:
    """Hash the events and the version of the rules that turn them into events of a store."""
    file = data_dir / INTERACTIONS
    content = file.read_bytes() if file.is_file() else data_digest(data_dir).encode()
    return hashlib.sha256(f"{_RULES}\0".encode() + content).hexdigest()


def to_events(history: Sequence[Interaction]) -> list[Event]:
    """Convert interactions to events, in the order of `pos`.

    An event id that the data give is kept. Any other depends only on item and time, and on a
    number if both repeat. So a longer export of the same data adds only the new events. Histories
    are ordered by time, but the order of `pos` must stay: a time before its predecessor's is raised
    to that.
    """
    events: list[Event] = []
    seen: dict[tuple[str, int], int] = {}
    latest = 0
    for item_id, timestamp, _, event_id, kind, value in history:
        latest = max(latest, timestamp)
        if event_id is None:
            repeat = seen[item_id, timestamp] = seen.get((item_id, timestamp), -1) + 1
            event_id = _event_id(item_id, timestamp, repeat)
        events.append(Event(item_id, latest, event_id, kind, value))
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
