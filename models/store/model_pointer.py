"""The model pointer names the live model: a base release and the number of deltas to apply to it.

One small JSON text, changed by compare-and-set as the manifest is. Knows nothing of Redis or of
the files that it names.
"""

from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import InvalidRecord
from models.store.manifest import MAX_BYTES, is_in_share

_Base = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
_Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
_Count = Annotated[int, Field(ge=0, lt=2**53)]


class LiveVersion(NamedTuple):
    """A base release with deltas applied in order."""

    base: str  # version of the base release, 12 hexadecimal digits
    deltas: int  # deltas 1 to this number are applied
    sha256: str  # of the file of the last delta; "" without deltas


class _Version(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    base: _Base
    deltas: _Count = 0
    sha256: _Sha256 = ""

    @property
    def version(self) -> LiveVersion:
        return LiveVersion(self.base, self.deltas, self.sha256)

    @model_validator(mode="after")
    def _check_digest(self) -> Self:
        if bool(self.deltas) != bool(self.sha256):
            raise ValueError(f"{self.deltas} deltas and sha256 {self.sha256[:12]!r} disagree")
        return self


class ModelCanary(_Version):
    """Another version for a share of the users; independent of the canary of the manifest."""

    percent: Annotated[float, Field(gt=0, lt=100)]  # of the users

    def takes(self, user_id: str) -> bool:
        return is_in_share(user_id, self.percent, purpose=b"model")


class ModelPointer(_Version):
    """The live version, and perhaps a canary."""

    epoch: Annotated[int, Field(ge=1, lt=2**53)]  # every change takes a higher one
    watermark: Annotated[str, Field(pattern=r"^[0-9]{1,20}-[0-9]{1,20}$")] = (
        "0-0"  # entry in the log of the last event that the version has learnt from
    )
    written_ms: _Count  # unix milliseconds
    canary: ModelCanary | None = None

    def for_user(self, user_id: str) -> LiveVersion:
        """Return the version for one user: that of the canary if the user is in it."""
        canary = self.canary
        return canary.version if canary and canary.takes(user_id) else self.version

    @property
    def versions(self) -> frozenset[LiveVersion]:
        """Return every version that can answer some user."""
        return frozenset({self.version, self.canary.version if self.canary else self.version})

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> "ModelPointer":
        """Decode JSON. Total over any bytes: raises InvalidRecord."""
        if len(data) > MAX_BYTES:
            raise InvalidRecord(f"model pointer of {len(data):,} bytes, expected {MAX_BYTES:,}")
        try:
            return cls.model_validate_json(data)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidRecord(f"model pointer: {where or 'whole text'}: {first['msg']}") from exc
