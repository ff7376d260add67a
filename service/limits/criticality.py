"""The header X-Criticality: which requests are rejected first under overload."""

from service.sources import Criticality

CRITICALITY_HEADER = "X-Criticality"
CRITICALITY_NAME = CRITICALITY_HEADER.lower().encode()  # as ASGI writes it
_NEVER_REJECTED = (b"/health/", b"/metrics")  # orchestrators and dashboards ask these
_BY_WORD = {each.value.encode(): each for each in Criticality}


def read_criticality(value: bytes | None) -> Criticality:
    """Read the header's value; an unknown word means `default`, as a hint fails no request."""
    return (
        _BY_WORD.get(value.strip().lower(), Criticality.DEFAULT) if value else Criticality.DEFAULT
    )


def criticality_of(url: bytes, headers: list[tuple[bytes, bytes]]) -> Criticality | None:
    """Return the criticality of a request; None for a request that is never rejected."""
    if url.startswith(_NEVER_REJECTED):
        return None
    return read_criticality(dict(headers).get(CRITICALITY_NAME))
