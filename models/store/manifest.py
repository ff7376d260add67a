"""The manifest names the live generations: one small JSON text, changed by compare-and-set.

The functions below the models decide which manifest follows another where no record has to be
written: a rollback, or the start, growth and end of a canary. They are pure, so that the commands
of the night and the admin port of a service decide alike. Every change takes an epoch above the
one in the store and above `seen`, the highest that the caller ever saw. Knows nothing of Redis or
of records.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
)

from models.errors import InvalidInput, InvalidRecord

MAX_DELTAS = 2
_MAX_CANARY_LAYERS = 2 * (MAX_DELTAS + 1)  # what workers thought on demand lies on top of it

_Count = Annotated[int, Field(ge=0)]


class Layer(BaseModel):
    """One generation of records. `created_at` is unix seconds; `users` counts its records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: Annotated[int, Field(ge=1, lt=2**64)]
    created_at: _Count
    users: _Count


class Canary(BaseModel):
    """Other layers for a share of the users, newest first.

    A user is in it or not by a hash of the id alone: the same users, request after request, and
    still the same when `percent` grows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    percent: Annotated[float, Field(gt=0, lt=100)]
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=_MAX_CANARY_LAYERS)]

    def takes(self, user_id: str) -> bool:
        digest = hashlib.blake2b(
            user_id.encode("utf-8", "surrogatepass"), digest_size=8, person=b"canary"
        ).digest()
        return int.from_bytes(digest, "big") < self.percent / 100 * 2**64


class Manifest(BaseModel):
    """The live layers of one SID space; every change takes a higher epoch.

    fingerprint: of the SID space, an unsigned 64-bit integer, hexadecimal on the wire.
    deltas: newer than the base and newest first. release: name of the release that thought last.
    canary: written only where there is one, so that a manifest without reads as it always did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: Annotated[int, Field(ge=1)]
    fingerprint: Annotated[int, Field(ge=0, lt=2**64)]
    base: Layer
    deltas: Annotated[tuple[Layer, ...], Field(max_length=MAX_DELTAS)] = ()
    release: str
    canary: Canary | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Live layers, newest first: the order in which a reader looks for a user's record."""
        return (*self.deltas, self.base)

    def layers_for(self, user_id: str) -> tuple[Layer, ...]:
        """The same for one user, who may be in the canary."""
        is_canary = self.canary is not None and self.canary.takes(user_id)
        return self.canary.layers if self.canary is not None and is_canary else self.layers

    @property
    def generations(self) -> frozenset[int]:
        """All that some user may be answered from."""
        canary = self.canary.layers if self.canary else ()
        return frozenset(layer.generation for layer in (*self.layers, *canary))

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Total over any bytes. Raises InvalidRecord."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidRecord(f"manifest: {where or 'whole text'}: {first['msg']}") from exc

    @field_validator("fingerprint", mode="before")
    @classmethod
    def _from_hex(cls, value: Any) -> Any:
        return int(value, 16) if isinstance(value, str) else value

    @field_serializer("fingerprint", when_used="json")
    def _to_hex(self, value: int) -> str:
        return f"{value:016x}"


def next_epoch(persisted: Manifest | None, *, seen: int) -> int:
    """Epoch of the next change: above what the store holds and above all that the caller ever saw.

    After a failover or a wipe the store may hold less than readers remember; an epoch they have
    already passed would be refused by them for ever.
    """
    return max(persisted.epoch if persisted else 0, seen) + 1


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
