"""What can be wrong with a connection to Redis, as one line of JSON can ask for it.

Pure: knows no sockets.
"""

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from models.errors import InvalidInput, InvalidSettings


class Kind(StrEnum):
    NONE = "none"
    LATENCY = "latency"  # replies come late, in order
    RESET = "reset"  # the connection is reset in place of a reply
    TRUNCATE = "truncate"  # half of a reply, then the end of the connection
    CORRUPT = "corrupt"  # one byte of a reply is another
    BLACK_HOLE = "black_hole"  # connections are taken, nothing moves; afterwards all comes late
    REFUSE = "refuse"  # nobody listens
    ERROR = "error"  # every command is answered with `text`


@dataclass(frozen=True)
class Fault:
    """delay_ms, jitter_ms: of LATENCY, uniform on top of fixed. share: of the pieces in which
    replies come that RESET, TRUNCATE or CORRUPT strikes. text: of ERROR, as Redis would say it."""

    kind: Kind = Kind.NONE
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    share: float = 1.0
    text: str = "LOADING Redis is loading the dataset in memory"

    def __post_init__(self) -> None:
        """Raises InvalidSettings."""
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
        """Raises InvalidSettings for what `encode` would not write; a field may be missing."""
        try:
            given = json.loads(line)
            return cls(**{**given, "kind": Kind(given.get("kind", Kind.NONE))})
        except InvalidInput:
            raise
        except (ValueError, TypeError, AttributeError) as exc:
            names = ", ".join(field.name for field in fields(cls))
            raise InvalidSettings(f"a fault is a JSON object of {names}: {exc}") from exc
