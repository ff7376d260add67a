"""W3C trace context, version 00: which trace a request belongs to, and its span in this service.

Knows nothing of who collects spans: the ids go back to the caller and are there for the logs.
"""

import random
import re
from typing import NamedTuple

TRACE_HEADER = b"traceparent"
REQUEST_ID_HEADER = b"x-request-id"
_IDS = rb"-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})"
_GIVEN = re.compile(rb"(?:00" + _IDS + rb"|(?!00|ff)[0-9a-f]{2}" + _IDS + rb"(?:-.*)?)")
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SAMPLED = 0x01  # the one flag that version 00 knows


class Trace(NamedTuple):
    """trace_id: 32 digits of hex, span_id: 16. is_sampled: the caller records this trace."""

    trace_id: str
    span_id: str
    is_sampled: bool

    @property
    def header(self) -> bytes:
        return f"00-{self.trace_id}-{self.span_id}-{self.is_sampled:02x}".encode()


def accept_request_id(given: bytes | None) -> str | None:
    """A caller's own id of a request, if it is harmless."""
    if given is None or not _ACCEPTED.fullmatch(text := given.decode("latin-1")):
        return None
    return text


def continue_trace(given: bytes | None) -> Trace:
    """A span of the caller's trace, or of a fresh one if `given` is no valid traceparent."""
    found = _GIVEN.fullmatch(given) if given else None
    span_id = f"{random.getrandbits(64) or 1:016x}"
    if found is None:
        return Trace(f"{random.getrandbits(128) or 1:032x}", span_id, is_sampled=False)
    trace_id, flags = found.group(1, 2) if found.group(1) else found.group(3, 4)
    return Trace(trace_id.decode(), span_id, bool(int(flags, 16) & _SAMPLED))
