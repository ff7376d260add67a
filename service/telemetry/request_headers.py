"""Headers that name and rank a request: its id, its W3C trace context, its criticality.

Id and trace (version 00, with a span of this service) are returned to the caller and logged. Knows
nothing of span exporters.
"""

import random
import re
from typing import NamedTuple

from service.sources import Criticality

TRACE_HEADER = b"traceparent"
REQUEST_ID_HEADER = b"x-request-id"
CRITICALITY_HEADER = "X-Criticality"
CRITICALITY_NAME = CRITICALITY_HEADER.lower().encode()  # as ASGI writes it
_IDS = rb"-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})"
_GIVEN = re.compile(rb"(?:00" + _IDS + rb"|(?!00|ff)[0-9a-f]{2}" + _IDS + rb"(?:-.*)?)")
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SAMPLED = 0x01  # the only flag of version 00
_BY_WORD = {each.value.encode(): each for each in Criticality}


class Trace(NamedTuple):
    """A trace and this service's span in it."""

    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits
    is_sampled: bool  # the caller records this trace

    @property
    def header(self) -> bytes:
        return f"00-{self.trace_id}-{self.span_id}-{self.is_sampled:02x}".encode()


def accept_request_id(given: bytes | None) -> str | None:
    """Return the caller's request id if it is 1 to 128 harmless characters, otherwise None."""
    if given is None or not _ACCEPTED.fullmatch(text := given.decode("latin-1")):
        return None
    return text


def continue_trace(given: bytes | None) -> Trace:
    """Start a span in the caller's trace, or in a new trace if `given` is not a valid header."""
    found = _GIVEN.fullmatch(given) if given else None
    span_id = f"{random.getrandbits(64) or 1:016x}"
    if found is None:
        return Trace(f"{random.getrandbits(128) or 1:032x}", span_id, is_sampled=False)
    trace_id, flags = found.group(1, 2) if found.group(1) else found.group(3, 4)
    return Trace(trace_id.decode(), span_id, bool(int(flags, 16) & _SAMPLED))


def read_criticality(given: bytes | None) -> Criticality:
    """Read the header's value; an unknown word means `default`, as a hint fails no request."""
    if not given:
        return Criticality.DEFAULT
    return _BY_WORD.get(given.strip().lower(), Criticality.DEFAULT)
