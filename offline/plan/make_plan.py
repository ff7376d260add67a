"""The first stage: read histories, decide about every user, write the plan. Does not think.

Rejects at once a night that could not be activated later.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset, load_dataset
from models.errors import InvalidInput
from models.intake.users_table import Attributes
from models.night.night_file import NIGHT_ITEMS, save_night_items
from models.night.night_items import NightItems
from models.release.release import Release
from models.store.events import Event, merge_events
from models.store.manifest import Manifest
from offline.disk.shards import ROWS_PER_PART
from offline.plan.attributes import read_attributes
from offline.plan.carried_rows import LiveRow, read_live_rows
from offline.plan.due import (
    DueUser,
    choose_users,
    cut_shards,
    is_unchanged,
    of_other_reasoners,
    sort_by_urgency,
    thinking_key,
    to_due_user,
)
from offline.plan.importer import to_events
from offline.plan.plan_file import (
    NextLayer,
    Plan,
    PlannedUser,
    Shard,
    next_layer,
    read_plan,
    write_plan,
    write_users,
)
from offline.settings import RefreshSettings

logger = logging.getLogger(__name__)

_USERS_PER_READ = 512
_MOST_KEYS = 30  # of a plan; rows of older reasoners are thought again
_NUM_EXAMPLES = 3  # users that a warning names
_MAX_FITTED = 1_000_000  # users that the night's model of items is fitted to, about


class Histories(Protocol):
    """Source of histories: a store or a data folder."""

    async def user_ids(self) -> list[str]: ...

    async def read_histories(self, user_ids: Sequence[str]) -> dict[str, tuple[Event, ...]]: ...


class FolderHistories:
    """Histories of a data folder, with the events that an import would create."""

    def __init__(self, data_dir: Path) -> None:
        """Load the folder. Raises InvalidDataset."""
        self._dataset: Dataset = load_dataset(data_dir)

    async def user_ids(self) -> list[str]:
        return sorted(self._dataset.histories)

    async def read_histories(self, user_ids: Sequence[str]) -> dict[str, tuple[Event, ...]]:
        histories = self._dataset.histories
        return {user_id: merge_events(to_events(histories[user_id])) for user_id in user_ids}


@dataclass(frozen=True)
class Agenda:
    """A plan before its users are cut into shards and written."""

    release: str  # name@version
    catalog: Catalog
    layer: NextLayer
    created_at: int  # unix seconds
    held: Manifest | None  # the live manifest
    due: tuple[str, ...]  # sorted user ids
    unknown: tuple[str, ...]  # requested user ids without a history
    to_think: list[DueUser]  # most urgent first
    to_carry: dict[str, LiveRow]  # user id -> the row to carry over
    unreadable: int  # due users without a single item in the catalog
    keys: tuple[str, ...]  # thinking keys, as the plan has them
    night: NightItems | None  # fitted to all users; None for a delta, which takes an older one


async def make_agenda(
    settings: RefreshSettings,
    release: Release,
    histories: Histories,
    *,
    held: Manifest | None,
    now_ms: int,
) -> Agenda:
    """Decide everything about a night. held: the live manifest. Raises InvalidInput."""
    with_history = await histories.user_ids()
    due, unknown = choose_users(settings, with_history)
    fingerprint = release.space.fingerprint
    layer = next_layer(settings, held=held, fingerprint=fingerprint, now_ms=now_ms)
    _warn(settings, held, layer, unknown)
    live = _read_live(settings, release, held, layer)
    key = thinking_key(release, settings)
    keys = tuple(dict.fromkeys([key, *_live_keys(settings, held)]))[:_MOST_KEYS]
    others = of_other_reasoners(key, keys) if settings.keep_thoughts else ()
    attributes = read_attributes(settings, release)
    users = await _read_due(release, key, histories, due, attributes)
    _warn_of_unreadable(release, due, users)
    to_think = [
        user
        for user in users
        if settings.rethink or not is_unchanged(release.catalog, user, live, others)
    ]
    thought = {user.history.user_id for user in to_think}
    carriable = {user: row for user, row in live.items() if row.is_legal and user not in thought}
    return Agenda(
        release=f"{release.name}@{release.version}",
        catalog=release.catalog,
        layer=layer,
        created_at=now_ms // 1000,
        held=held,
        due=due,
        unknown=unknown,
        to_think=sort_by_urgency(to_think, live),
        to_carry=_choose_carried(carriable, layer, known=set(with_history), due=set(due)),
        unreadable=len(due) - len(users),
        keys=keys,
        night=await _fit_night(release.catalog, histories, with_history, users, layer),
    )


async def _fit_night(
    catalog: Catalog,
    histories: Histories,
    with_history: Sequence[str],
    users: Sequence[DueUser],
    layer: NextLayer,
) -> NightItems | None:
    """Fit the night's model of items to the histories of all users, for a base."""
    if not layer.is_base:
        return None
    from models.night.ridge import fit_night_items  # imports scipy

    rows = {user.history.user_id: user.history.rows for user in users}
    step = 1 + len(with_history) // _MAX_FITTED
    more = [user_id for user_id in with_history[::step] if user_id not in rows]
    for start in range(0, len(more), _USERS_PER_READ):
        some = await histories.read_histories(more[start : start + _USERS_PER_READ])
        for user_id, events in some.items():
            rows[user_id] = catalog.rows([event.item_id for event in events])
    return fit_night_items([rows[user_id] for user_id in sorted(rows)], catalog)


def write_agenda(settings: RefreshSettings, agenda: Agenda) -> Plan:
    """Write the plan into OUT/<generation>/: its users first, `plan.json` last."""
    folder = settings.out_dir / str(agenda.layer.generation)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[Shard] = []
    for users in cut_shards(agenda.to_think, settings):
        shards.append(write_users(folder, len(shards), users))
    for sources, users in _cut_carried(agenda.to_carry):
        shards.append(write_users(folder, len(shards), users, sources=sources))
    plan = Plan(
        generation=agenda.layer.generation,
        created_at=agenda.created_at,
        release=agenda.release,
        paths=settings.paths,
        width=settings.width,
        num_prefixes=settings.num_prefixes,
        seed=settings.seed,
        is_base=agenda.layer.is_base,
        replaced=agenda.layer.replaced,
        held=agenda.held,
        users_chosen=len(agenda.due),
        unreadable=agenda.unreadable,
        unknown=agenda.unknown,
        shards=tuple(shards),
        keys=agenda.keys,
    )
    if agenda.night is not None:
        save_night_items(agenda.night, folder / NIGHT_ITEMS, agenda.catalog)
    write_plan(folder, plan)
    return plan


def _warn(
    settings: RefreshSettings, held: Manifest | None, layer: NextLayer, unknown: Sequence[str]
) -> None:
    for user_id in unknown:
        logger.warning("user %r has no history and is skipped", user_id)
    if layer.is_base and not settings.is_whole and held is not None:
        logger.warning("the live layers have another SID space; these users become a new base")


def _warn_of_unreadable(release: Release, due: Sequence[str], users: Sequence[DueUser]) -> None:
    """Log one line about the due users without a single item in the catalog."""
    readable = {user.history.user_id for user in users}
    unreadable = [user_id for user_id in due if user_id not in readable]
    if not unreadable:
        return
    is_most = 2 * len(unreadable) > len(due)
    logger.warning(
        "%d of %d users due have no item of %s@%s and are left out, such as %s%s",
        *(len(unreadable), len(due), release.name, release.version),
        ", ".join(repr(user_id[:40]) for user_id in unreadable[:_NUM_EXAMPLES]),
        "; does the store hold the users of another data set? See --namespace" if is_most else "",
    )


def _read_live(
    settings: RefreshSettings, release: Release, held: Manifest | None, layer: NextLayer
) -> dict[str, LiveRow]:
    if held is None or held.fingerprint != release.space.fingerprint:
        return {}
    return read_live_rows(settings.out_dir, held.layers, release.catalog, must_have=layer.replaced)


def _live_keys(settings: RefreshSettings, held: Manifest | None) -> list[str]:
    """Return the thinking keys of the live layers, the newest first."""
    keys: list[str] = []
    for layer in held.layers if held is not None else ():
        with suppress(InvalidInput):  # a layer of requests has no plan
            keys += read_plan(settings.out_dir / str(layer.generation)).keys
    return keys


async def _read_due(
    release: Release,
    key: str,
    histories: Histories,
    due: Sequence[str],
    attributes: Mapping[str, Attributes],
) -> list[DueUser]:
    """Read the due users with at least one item in the catalog."""
    users: list[DueUser] = []
    for start in range(0, len(due), _USERS_PER_READ):
        some = await histories.read_histories(due[start : start + _USERS_PER_READ])
        found = (
            to_due_user(release, key, user_id, events, attributes.get(user_id))
            for user_id, events in some.items()
        )
        users += [user for user in found if user is not None]
    return users


def _choose_carried(
    carriable: Mapping[str, LiveRow], layer: NextLayer, *, known: set[str], due: set[str]
) -> dict[str, LiveRow]:
    """Choose the rows that the new layer carries over.

    These are rows of due users and, if it replaces a delta, of that delta's other users. Users
    without a history any more are left out.
    """
    replaced = f"{layer.replaced.generation}/" if layer.replaced else None
    return {
        user_id: row
        for user_id, row in carriable.items()
        if user_id in known
        and (user_id in due or (replaced is not None and row.source.startswith(replaced)))
    }


def _cut_carried(
    to_carry: Mapping[str, LiveRow],
) -> Iterator[tuple[tuple[str, ...], list[PlannedUser]]]:
    """Yield (sources, users) of each shard: complete sources, until they fill a part."""
    by_source: dict[str, list[str]] = {}
    for user_id, row in sorted(to_carry.items()):
        by_source.setdefault(row.source, []).append(user_id)
    sources: list[str] = []
    users: list[PlannedUser] = []
    for source, user_ids in sorted(by_source.items()):
        users += [PlannedUser(each, len(sources), to_carry[each].digest) for each in user_ids]
        sources.append(source)
        if len(users) >= ROWS_PER_PART:
            yield tuple(sources), users
            sources, users = [], []
    if users:
        yield tuple(sources), users
