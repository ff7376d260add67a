"""Rules by which a generation joins the live layers. Pure.

A base replaces all older layers. A delta lies on top. At most two deltas are live: a third replaces
one of them and must hold its rows too.
"""

from typing import NamedTuple

from models.errors import InvalidInput
from models.store.manifest import MAX_DELTAS, Canary, Layer, Manifest


class Joined(NamedTuple):
    """Live layers after a generation has joined."""

    layers: tuple[Layer, ...]  # newest first
    absorbed: Layer | None  # delta whose rows the newest layer must take over


def join(
    held: Manifest | None, layer: Layer, *, fingerprint: int, is_base: bool, replaced: int | None
) -> Joined:
    """Return the live layers with `layer` as the newest.

    replaced: generation of a delta, if `layer` already holds its rows. Raises InvalidInput for a
    delta without a live base of its SID space.
    """
    if is_base:
        return Joined((layer,), None)
    if held is None or held.fingerprint != fingerprint:
        raise InvalidInput(
            f"generation {layer.generation} is a delta, and no base of its SID space is live: "
            "run `python -m offline repair`, or a night over all users"
        )
    kept = [delta for delta in held.deltas if delta.generation not in (replaced, layer.generation)]
    absorbed = None
    if len(kept) == MAX_DELTAS:
        absorbed = min(kept, key=lambda delta: (delta.users, delta.generation))
        kept.remove(absorbed)
    return Joined((layer, *kept, held.base), absorbed)


def to_manifest(
    layers: tuple[Layer, ...],
    *,
    epoch: int,
    fingerprint: int,
    release: str,
    held: Manifest | None = None,
    canary_percent: float | None = None,
) -> Manifest:
    """Build a manifest with these layers, for all users or for a canary beside `held`.

    Raises InvalidInput for a canary without a live base of its SID space.
    """
    if canary_percent is not None:
        if held is None or held.fingerprint != fingerprint:
            raise InvalidInput("a canary needs a live base of its SID space, and there is none")
        canary = Canary(percent=canary_percent, layers=layers)
        return held.model_copy(update={"epoch": epoch, "canary": canary})
    *deltas, base = layers
    return Manifest(
        epoch=epoch, fingerprint=fingerprint, base=base, deltas=tuple(deltas), release=release
    )
