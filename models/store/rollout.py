"""Which manifest comes after which, where no record has to be written: a way back, a canary's end.

Pure, so that the night's commands and a service's admin port decide alike. Every change takes an
epoch above what the store holds and above `seen`, all that the caller ever saw.
"""

from collections.abc import Sequence

from models.errors import InvalidInput
from models.store.manifest import MAX_DELTAS, Canary, Manifest, next_epoch


def choose_target(
    held: Manifest, past: Sequence[Manifest], *, to_epoch: int | None = None
) -> Manifest:
    """What a rollback goes to: the end of a canary, one night back, or an epoch of the past.

    past: newest first. A second rollback goes further back, not to and fro. Raises InvalidInput
    when there is nothing to go back to.
    """
    if to_epoch is not None:
        found = [manifest for manifest in past if manifest.epoch == to_epoch]
    elif held.canary is not None:
        found = [held]
    else:
        newest = held.layers[0].generation
        found = [manifest for manifest in past if manifest.layers[0].generation < newest]
    if not found:
        known = ", ".join(str(manifest.epoch) for manifest in past) or "none"
        raise InvalidInput(f"nothing to roll back to; epochs that the store remembers: {known}")
    return found[0]


def go_to(target: Manifest, held: Manifest, *, seen: int) -> Manifest:
    """The target's layers for everybody."""
    epoch = next_epoch(held, seen=seen)
    return target.model_copy(update={"epoch": epoch, "canary": None})


def promote(held: Manifest, *, seen: int) -> Manifest:
    """The canary's layers for everybody. Raises InvalidInput where they cannot be as they are."""
    if held.canary is None:
        raise InvalidInput("there is no canary to activate")
    *deltas, base = held.canary.layers
    if len(deltas) > MAX_DELTAS:
        raise InvalidInput(
            f"the canary has {len(deltas)} layers over its base, {MAX_DELTAS} can be live: "
            "`python -m offline activate` puts them together"
        )
    epoch = next_epoch(held, seen=seen)
    layers = {"base": base, "deltas": tuple(deltas)}
    return held.model_copy(update={"epoch": epoch, "canary": None, **layers})


def set_canary(
    held: Manifest, percent: float, *, layers_of: Manifest | None, seen: int
) -> Manifest:
    """Another share for the canary, or one with the layers of a manifest of the past.

    Raises InvalidInput without either, or for a share that is nobody or everybody.
    """
    if not 0 < percent < 100:
        raise InvalidInput(f"a canary of {percent:g} percent, expected more than 0, less than 100")
    if layers_of is None and held.canary is None:
        raise InvalidInput("there is no canary yet: say of which epoch its layers are")
    layers = layers_of.layers if layers_of else held.canary.layers if held.canary else ()
    canary = Canary(percent=percent, layers=layers)
    return held.model_copy(update={"epoch": next_epoch(held, seen=seen), "canary": canary})
