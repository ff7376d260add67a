"""Rule for the ids of users, items and events: 1 to 256 bytes of UTF-8, no control characters."""

import re

MAX_ID_BYTES = 256

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # categories Cc and Cs


def id_problem(value: str) -> str | None:
    """Return the problem with an id, to be read after its name; None for a good one."""
    if has_forbidden(value):
        return "holds a control character or a lone surrogate"
    num_bytes = len(value.encode())
    if not 1 <= num_bytes <= MAX_ID_BYTES:
        return f"has {num_bytes} bytes, expected 1..{MAX_ID_BYTES}"
    return None


def has_forbidden(text: str) -> bool:
    # A printable text has no such character. Most ids are printable; the search is 10 times slower.
    return not text.isprintable() and _FORBIDDEN.search(text) is not None
