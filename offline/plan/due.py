"""Due users: which they are, which have changed, their order and their micro-batches. Pure."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from models.catalog.catalog import Catalog
from models.errors import InvalidInput
from models.intake.users_table import Attributes
from models.program import program
from models.reasoner.think import UserHistory
from models.release.release import Release
from models.store.events import Event
from offline.disk.bases import reasoner_files
from offline.plan.carried_rows import LiveRow
from offline.plan.plan_file import PlannedUser, to_history
from offline.settings import MAX_PREFIXES, RefreshSettings

_RULES = 2  # raise it when prompts, sampling or the items of records change
_DAY_S = 86400


class DueUser(NamedTuple):
    """A user that the night has to decide about."""

    history: UserHistory  # the items that the reasoner reads
    digest: str  # from `digest_history`
    newest: int  # unix seconds of the newest event


def choose_users(
    settings: RefreshSettings, with_history: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (sorted ids of due users, requested ids without a history).

    with_history: sorted ids of all users with a history. Raises InvalidInput if no user is due.
    """
    if not with_history:
        raise InvalidInput(
            f"the store has no histories: run `{program('offline')} import --data DIR` first"
        )
    known = set(with_history)
    unknown = tuple(user_id for user_id in settings.user_ids if user_id not in known)
    first = with_history if settings.is_whole else with_history[: settings.num_users]
    chosen = set(first) | (known & set(settings.user_ids))
    if not chosen:
        raise InvalidInput(f"user {unknown[0]!r} has no history: no user to think about")
    return tuple(sorted(chosen)), unknown


def to_due_user(
    release: Release,
    key: str,
    user_id: str,
    events: Sequence[Event],
    attributes: Attributes | None = None,
) -> DueUser | None:
    """Build a due user; None if the catalog knows none of the items. key: from `thinking_key`."""
    history = to_history(release, user_id, events)
    if history is None:
        return None
    history = replace(history, attributes=tuple(sorted((attributes or {}).items())))
    return DueUser(history, digest_history(release.catalog, key, history), events[-1].timestamp)


def thinking_key(release: Release, settings: RefreshSettings) -> str:
    """Return everything that thoughts depend on, except the history, as JSON.

    These are the reasoner's files, the SID space, the sampling settings and the prompt rules.
    """
    files = reasoner_files(release)
    sampling = [settings.paths, settings.width, settings.seed, MAX_PREFIXES, _RULES]
    sampling += [settings.num_prefixes] if settings.num_prefixes else []
    return json.dumps([files, release.manifest.space.fingerprint, sampling], sort_keys=True)


def digest_history(catalog: Catalog, key: str, history: UserHistory) -> str:
    """Hash the key, the SIDs of a history, and attributes of the user if there are any.

    Catalog rows would change with every new item.
    """
    sids = catalog.sids[list(history.rows)].astype("<i4").tobytes()
    about = json.dumps(history.attributes).encode() if history.attributes else b""
    return hashlib.blake2b(key.encode() + b"\0" + sids + about, digest_size=16).hexdigest()


def of_other_reasoners(key: str, keys: Iterable[str]) -> tuple[str, ...]:
    """Return those of the keys that differ from a key in the files of the reasoner alone."""
    rest = json.loads(key)[1:]
    return tuple(each for each in keys if each != key and json.loads(each)[1:] == rest)


def is_unchanged(
    catalog: Catalog, user: DueUser, live: Mapping[str, LiveRow], others: Sequence[str]
) -> bool:
    """Return True if thinking about this user again would give the live row.

    others: keys of other reasoners, whose row of the same history is as good.
    """
    row = live.get(user.history.user_id)
    if row is None or not row.is_legal:
        return False
    return row.digest == user.digest or any(
        row.digest == digest_history(catalog, key, user.history) for key in others
    )


def sort_by_urgency(users: Sequence[DueUser], live: Mapping[str, LiveRow]) -> list[DueUser]:
    """Sort users by urgency, so that a night that is cut short has done the important part.

    Users without a record come first. The others are sorted by the day of their newest event,
    latest first, and within a day by the age of their record, oldest first.
    """

    def urgency(user: DueUser) -> tuple[bool, int, int, str]:
        row = live.get(user.history.user_id)
        thought_at = row.created_at if row else 0
        return row is not None, -(user.newest // _DAY_S), thought_at, user.history.user_id

    return sorted(users, key=urgency)


def cut_shards(users: Sequence[DueUser], settings: RefreshSettings) -> Iterator[list[PlannedUser]]:
    """Cut users into shards, in the given order. Micro-batches of a shard group similar lengths."""
    left = iter(users)
    while some := list(islice(left, settings.micro_batch * settings.shard_batches)):
        digests = {user.history.user_id: user.digest for user in some}
        batches = micro_batches([user.history for user in some], settings.micro_batch)
        yield [
            PlannedUser(user.user_id, number, digests[user.user_id], user.rows, user.attributes)
            for number, batch in enumerate(batches)
            for user in batch
        ]


def micro_batches(users: Sequence[UserHistory], size: int) -> Iterator[Sequence[UserHistory]]:
    """Group histories of similar length, since a batch is padded to its longest prompt."""
    ordered = sorted(users, key=lambda user: (len(user.rows), user.user_id))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
