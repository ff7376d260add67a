"""Which layers follow from which: the rules by which a generation joins what is live. Pure.

A base replaces everything older. A delta lies on top; there are two at most, so a third takes the
place of one, whose rows it must then hold as well.
"""

from typing import NamedTuple

from models.errors import InvalidInput
from models.store.manifest import MAX_DELTAS, Canary, Layer, Manifest


class Joined(NamedTuple):
    """Layers newest first. absorbed: the delta whose rows the newest must take over, if any."""

    layers: tuple[Layer, ...]
    absorbed: Layer | None


def join(
    held: Manifest | None, layer: Layer, *, fingerprint: int, is_base: bool, replaced: int | None
) -> Joined:
    """The layers once `layer` is the newest.

    replaced: a delta whose rows it already holds. Raises InvalidInput for a delta without a base
    of its SID space below it.
    """
    if is_base:
        return Joined((layer,), None)
    if held is None or held.fingerprint != fingerprint:
        raise InvalidInput(
            f"generation {layer.generation} is a delta, and no base of its SID space is live: "
            "run `python -m offline repair` or a whole night"
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
    """These layers for all, or with a percentage for a canary beside those of `held`."""
    if canary_percent is not None:
        if held is None or held.fingerprint != fingerprint:
            raise InvalidInput("nothing of this SID space is live that a canary could stand beside")
        canary = Canary(percent=canary_percent, layers=layers)
        return held.model_copy(update={"epoch": epoch, "canary": canary})
    *deltas, base = layers
    return Manifest(
        epoch=epoch, fingerprint=fingerprint, base=base, deltas=tuple(deltas), release=release
    )
