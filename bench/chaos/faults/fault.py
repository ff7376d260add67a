"""Faults of a connection to Redis, encoded as one line of JSON. Knows no sockets."""

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from models.errors import InvalidInput, InvalidSettings


class Kind(StrEnum):
    """Kind of fault."""

    NONE = "none"
    LATENCY = "latency"  # replies come late, in order
    RESET = "reset"  # the connection is reset in place of a reply
    TRUNCATE = "truncate"  # half of a reply, then the end of the connection
    CORRUPT = "corrupt"  # one byte of a reply is changed
    BLACK_HOLE = "black_hole"  # connections open, but no byte passes until the fault ends
    REFUSE = "refuse"  # the port is closed
    ERROR = "error"  # every command is answered with `text`


@dataclass(frozen=True)
class Fault:
    """One fault and its parameters."""

    kind: Kind = Kind.NONE
    delay_ms: float = 0.0  # LATENCY: fixed part
    jitter_ms: float = 0.0  # LATENCY: maximum of a uniform part on top
    share: float = 1.0  # RESET, TRUNCATE, CORRUPT: share of the reply pieces that are struck
    text: str = "LOADING Redis is loading the dataset in memory"  # ERROR: in Redis' own form

    def __post_init__(self) -> None:
        """Check the parameters. Raises InvalidSettings."""
        if self.delay_ms < 0 or self.jitter_ms < 0:
            raise InvalidSettings(
                f"{self.kind}: {self.delay_ms} + {self.jitter_ms} ms, expected >= 0"
            )
        if not 0 < self.share <= 1:
            raise InvalidSettings(f"{self.kind} of share {self.share}, expected 0 < share <= 1")
        if not self.text or "\r" in self.text or "\n" in self.text:
            raise InvalidSettings(f"an error's text is one line, not {self.text[:40]!r}")

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Fault":
        """Parse a line of `encode`; fields may be missing. Raises InvalidSettings."""
        try:
            given = json.loads(line)
            return cls(**{**given, "kind": Kind(given.get("kind", Kind.NONE))})
        except InvalidInput:
            raise
        except (ValueError, TypeError, AttributeError) as exc:
            names = ", ".join(field.name for field in fields(cls))
            raise InvalidSettings(f"a fault is a JSON object of {names}: {exc}") from exc
