"""What is told of a request unparsed, beside the parser that reads it otherwise."""

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.limits.unparsed import Plain, read_criticality, read_plain
from service.sources import Criticality


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"GET /recommend/u HTTP/1.1\r\nHost: x\r\n\r\n", Criticality.DEFAULT),
        (b"GET /v1/recommend/u?n=3 HTTP/1.1\r\n\r\n", Criticality.DEFAULT),
        (b"GET /recommend/u HTTP/1.1\r\nx-criticality:CRITICAL\r\n\r\n", Criticality.CRITICAL),
        (b"GET /recommend/u HTTP/1.1\r\nX-Criticality: sheddable \r\n\r\n", Criticality.SHEDDABLE),
        (b"GET /recommend/u HTTP/1.1\r\nX-Criticality: hurry\r\n\r\n", Criticality.DEFAULT),
        (b"GET /recommend/u HTTP/1.1\r\nHost: x\r\n", None),
        (b"GET /recommend/u HTTP/1.0\r\n\r\n", None),
        (b"GET /health/live HTTP/1.1\r\n\r\n", None),
        (b"GET /metrics HTTP/1.1\r\n\r\n", None),
        (b"HEAD /recommend/u HTTP/1.1\r\n\r\n", None),
        (b"GET /recommend/u HTTP/1.1\r\nConnection: close\r\n\r\n", None),
        (b"GET /recommend/u HTTP/1.1\r\nConnection: keep-alive\r\n\r\n", Criticality.DEFAULT),
        (b"GET /recommend/u HTTP/1.1\r\n\r\nGET /recommend/u HTTP/1.1\r\n\r\n", None),
        (b"POST /events/u HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", Criticality.DEFAULT),
        (b"POST /events/u HTTP/1.1\r\ncontent-length:2\r\n\r\n{", None),
        (b"POST /events/u HTTP/1.1\r\nContent-Length: 2\r\n\r\n", None),
        (b"POST /events/u HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET /", None),
        (b"POST /events/u HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
    ],
)
def test_only_whole_and_plain_requests_are_told(data: bytes, found: Criticality | None) -> None:
    plain = read_plain(data)
    assert (plain.criticality if plain else None) == found


def test_a_recommendation_is_plain_if_it_says_no_more_than_how_many() -> None:
    def asked(path: str) -> tuple[bytes | None, bytes, int]:
        plain = read_plain(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        assert plain is not None
        return plain.route, plain.user_id, plain.num_items

    assert asked("/recommend/Ann-1.~_") == (b"/recommend/", b"Ann-1.~_", 10)
    assert asked("/v1/recommend/u?n=25") == (b"/v1/recommend/", b"u", 25)
    for path in ("/recommend/u?n=25&explain=true", "/recommend/%20", "/recommend/u/v", "/events/u"):
        assert asked(path)[0] is None


def test_an_unknown_criticality_is_the_default_one() -> None:
    assert read_criticality(None) == read_criticality(b"now!") == Criticality.DEFAULT


class _Parsed:
    """What the server's own parser makes of the same bytes."""

    def __init__(self, data: bytes) -> None:
        self.url, self.num_whole, self.fields = b"", 0, dict[bytes, bytes]()
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(data)
        self.keeps_alive = self._parser.should_keep_alive()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.lower()] = value

    def on_message_complete(self) -> None:
        self.num_whole += 1


NAMES = st.sampled_from(
    (
        *("Host", "X-Criticality", "X-Request-Id", "Content-Length", "Connection", "x-api-key"),
        *("Transfer-Encoding", "TRACEPARENT", "content-length ", "X-Other"),
    )
)
VALUES = st.sampled_from(
    (
        *("", "0", "2", "02", "+2", "close", "Close", "keep-alive", "keep-alive, close"),
        *("chunked", "critical", "sheddable", "\tdefault ", "a:b", "id-1"),
    )
)
STARTS = st.sampled_from(
    (
        *("GET /recommend/u", "GET /v1/recommend/u?n=7", "GET /recommend/u?n=7&n=8"),
        *("POST /events/u", "GET /health/live", "GET  /recommend/u", "PUT /recommend/u"),
        *("GET /recommend/\x7f", "GET /recommend/u#x"),
    )
)
BODIES = st.sampled_from(["", "{}", "\r\n", "0\r\n\r\n", "GET /metrics HTTP/1.1\r\n\r\n"])


@settings(max_examples=500)
@given(
    start=STARTS,
    version=st.sampled_from(["1.1", "1.0", "2.0"]),
    fields=st.lists(st.tuples(NAMES, st.sampled_from([":", ": "]), VALUES), max_size=4),
    end=st.sampled_from(["\r\n", "\n", "\r\n "]),
    body=BODIES,
)
def test_what_is_plain_is_one_whole_request_to_the_parser_as_well(
    start: str, version: str, fields: list[tuple[str, str, str]], end: str, body: str
) -> None:
    lines = "".join("".join(each) + end for each in fields)
    data = f"{start} HTTP/{version}\r\n{lines}\r\n{body}".encode("latin-1")
    plain = read_plain(data)
    if plain is not None:
        _agrees(plain, _Parsed(data))


def _agrees(plain: Plain, parsed: _Parsed) -> None:
    assert parsed.num_whole == 1
    assert parsed.keeps_alive
    assert plain.criticality == read_criticality(parsed.fields.get(b"x-criticality"))
    if plain.route is not None:
        assert parsed.url.startswith(plain.route + plain.user_id)
