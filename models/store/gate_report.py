"""Verdicts of the gates on a night that goes live, kept in the store for a person who looks.

The report on disk has more; a service does not see that disk. Knows nothing of how gates judge.
"""

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import InvalidRecord


class Verdict(BaseModel):
    """One gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float | None  # None: too few data to judge
    expected: str
    has_passed: bool


class GateReport(BaseModel):
    """All gates of one generation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: int
    forced: str | None = None  # reason for overruling failed gates
    gates: tuple[Verdict, ...]

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, data: bytes) -> "GateReport":
        """Decode JSON. Total over any bytes: raises InvalidRecord."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            raise InvalidRecord(f"gates: {first['msg']}") from exc
