"""What a night is going to do: who is due, and which layer comes of it.

Decides before anything is thought, so that what cannot be activated is refused at once. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from models.catalog import Catalog
from models.errors import InvalidInput
from models.events import Event
from models.manifest import MAX_DELTAS, Layer, Manifest
from models.think import UserHistory
from offline.settings import RefreshSettings


@dataclass(frozen=True)
class Plan:
    """held: the manifest that this night builds on, and expects to find when it activates.

    is_base: the new layer replaces all layers. replaced: the delta that the new one takes the
    place of, and whose other users it carries on. unknown: asked for by name, without a history.
    """

    generation: int
    created_at: int
    user_ids: tuple[str, ...]
    unknown: tuple[str, ...]
    held: Manifest | None
    is_base: bool
    replaced: Layer | None


def make_plan(
    settings: RefreshSettings,
    *,
    with_history: Sequence[str],
    held: Manifest | None,
    fingerprint: int,
    now_ms: int,
) -> Plan:
    """Plan a night. with_history: sorted ids of all users that have one.

    A night for some users is a delta over the live base. It becomes the base itself where there is
    none, or where the live layers speak another SID space, as no reader could use both.

    Raises InvalidInput when nobody is due.
    """
    user_ids, unknown = _choose(settings, with_history)
    is_base = settings.is_whole or held is None or held.fingerprint != fingerprint
    replaced = None
    if held is not None and not is_base and len(held.deltas) == MAX_DELTAS:
        replaced = held.deltas[0]
    newest = max((layer.generation for layer in held.layers), default=0) if held else 0
    return Plan(
        generation=max(now_ms, newest + 1),
        created_at=now_ms // 1000,
        user_ids=user_ids,
        unknown=unknown,
        held=held,
        is_base=is_base,
        replaced=replaced,
    )


def _choose(
    settings: RefreshSettings, with_history: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not with_history:
        raise InvalidInput(
            "the store has no histories: run `python -m offline import --data DIR` first"
        )
    known = set(with_history)
    unknown = tuple(user_id for user_id in settings.user_ids if user_id not in known)
    first = with_history if settings.is_whole else with_history[: settings.num_users]
    chosen = set(first) | (known & set(settings.user_ids))
    if not chosen:
        raise InvalidInput(f"no history of user {unknown[0]!r}: nobody to think about")
    return tuple(sorted(chosen)), unknown


def to_history(catalog: Catalog, user_id: str, events: Sequence[Event]) -> UserHistory | None:
    """What the reasoner reads of a user; None where the catalog knows none of the items."""
    rows = (catalog.row(event.item_id) for event in events)
    known = tuple(row for row in rows if row is not None)
    return UserHistory(user_id, known) if known else None
