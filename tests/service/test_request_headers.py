"""The header X-Criticality, and the requests that are never rejected."""

import pytest

from service.limits.connections import criticality_of
from service.sources import Criticality
from service.telemetry.request_headers import read_criticality


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, Criticality.DEFAULT),
        (b"", Criticality.DEFAULT),
        (b"CRITICAL", Criticality.CRITICAL),
        (b" sheddable ", Criticality.SHEDDABLE),
        (b"\tdefault ", Criticality.DEFAULT),
        (b"now!", Criticality.DEFAULT),
    ],
)
def test_an_unknown_criticality_is_the_default_one(value: bytes | None, read: Criticality) -> None:
    assert read_criticality(value) == read


@pytest.mark.parametrize("url", [b"/health/live", b"/health/ready", b"/metrics"])
def test_health_and_metrics_are_never_rejected(url: bytes) -> None:
    assert criticality_of(url, [(b"x-criticality", b"sheddable")]) is None


def test_the_criticality_of_a_request_is_that_of_its_header() -> None:
    headers = [(b"host", b"x"), (b"x-criticality", b"critical")]
    assert criticality_of(b"/recommend/u", headers) == Criticality.CRITICAL
    assert criticality_of(b"/events/u", headers[:1]) == Criticality.DEFAULT
