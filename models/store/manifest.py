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
MAX_BYTES = 1 << 16  # of the JSON text; one with every layer has 2,000
_MAX_CANARY_LAYERS = 2 * (MAX_DELTAS + 1)  # its own, and layers of thinking on demand above them

_Count = Annotated[int, Field(ge=0, lt=2**53)]


class Layer(BaseModel):
    """One generation of records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: Annotated[int, Field(ge=1, lt=2**64)]
    created_at: _Count  # unix seconds
    users: _Count  # number of its records


class Canary(BaseModel):
    """Other layers for a share of the users.

    A hash of the user id alone decides, so that a user stays in the canary between requests, and
    also if `percent` grows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    percent: Annotated[float, Field(gt=0, lt=100)]  # of the users
    layers: Annotated[  # newest first
        tuple[Layer, ...], Field(min_length=1, max_length=_MAX_CANARY_LAYERS)
    ]

    def takes(self, user_id: str) -> bool:
        return is_in_share(user_id, self.percent, purpose=b"canary")


class Manifest(BaseModel):
    """The live layers of one SID space."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: Annotated[int, Field(ge=1, lt=2**53)]  # every change takes a higher one
    fingerprint: Annotated[int, Field(ge=0, lt=2**64)]  # of the SID space; hexadecimal in JSON
    base: Layer
    deltas: Annotated[  # newer than the base, newest first
        tuple[Layer, ...], Field(max_length=MAX_DELTAS)
    ] = ()
    release: Annotated[str, Field(max_length=1024)]  # name of the release that thought last
    canary: Canary | None = None  # left out of the JSON text if there is none, as in old manifests

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the live layers, newest first, the order in which a reader tries them."""
        return (*self.deltas, self.base)

    def layers_for(self, user_id: str) -> tuple[Layer, ...]:
        """Return the layers for one user: those of the canary if the user is in it."""
        is_canary = self.canary is not None and self.canary.takes(user_id)
        return self.canary.layers if self.canary is not None and is_canary else self.layers

    @property
    def generations(self) -> frozenset[int]:
        """Return every generation that can answer some user, those of the canary included."""
        canary = self.canary.layers if self.canary else ()
        return frozenset(layer.generation for layer in (*self.layers, *canary))

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Decode JSON. Total over any bytes: raises InvalidRecord."""
        if len(data) > MAX_BYTES:
            raise InvalidRecord(f"manifest of {len(data):,} bytes, expected at most {MAX_BYTES:,}")
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


def is_in_share(user_id: str, percent: float, *, purpose: bytes) -> bool:
    """Return True for `percent` of the users, the same ones each time.

    Shares for different purposes are independent of each other.
    """
    text = user_id.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "big") < percent / 100 * 2**64


def next_epoch(persisted: Manifest | None, *, seen: int) -> int:
    """Return the epoch of the next change: above the stored one and above `seen`.

    After a failover or a wipe the store may hold an older epoch than readers remember. Readers
    refuse an epoch below the highest that they have seen.
    """
    return max(persisted.epoch if persisted else 0, seen) + 1


def choose_target(
    held: Manifest, past: Sequence[Manifest], *, to_epoch: int | None = None
) -> Manifest:
    """Choose the manifest that a rollback returns to.

    If `to_epoch` is given, the manifest of that epoch. If there is a canary, `held`, whose canary
    ends. Otherwise the newest one that is older by a generation: a second rollback goes back
    further.

    Args:
        past: replaced manifests, newest first.

    Raises:
        InvalidInput: there is no such manifest.
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
    """Return a manifest with the layers of `target` for all users."""
    epoch = next_epoch(held, seen=seen)
    return target.model_copy(update={"epoch": epoch, "canary": None})


def promote(held: Manifest, *, seen: int) -> Manifest:
    """Return a manifest with the layers of the canary for all users.

    Raises InvalidInput if there is no canary, or if it has more layers than a manifest may.
    """
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
    """Return a manifest whose canary takes `percent` of the users.

    Args:
        layers_of: manifest of the past that gives the canary's layers; None to keep the layers.

    Raises:
        InvalidInput: neither a canary nor `layers_of`, or a share outside 0 to 100, both excluded.
    """
    if not 0 < percent < 100:
        raise InvalidInput(f"a canary of {percent:g} percent, expected more than 0, less than 100")
    if layers_of is None and held.canary is None:
        raise InvalidInput("there is no canary yet: give the epoch that its layers come from")
    layers = layers_of.layers if layers_of else held.canary.layers if held.canary else ()
    canary = Canary(percent=percent, layers=layers)
    return held.model_copy(update={"epoch": next_epoch(held, seen=seen), "canary": canary})
