"""`popular` answers of the flood gate equal those of the application."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from service.api.popular_answers import PopularAnswers
from service.api.responses import Recommendation
from service.auth.api_keys import KeyRing, new_key
from service.recommend.engine import Engine
from service.telemetry.metrics import Metrics
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import read_metric, serving, toy_engine

DATE = ((b"date", b"Sat, 28 Nov 2026 12:00:00 GMT"),)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SHOP, EVENTS, SLOW = (new_key() for _ in range(3))


def write(
    made: PopularAnswers, path: str = "/recommend/ann", method: str = "GET", **headers: str
) -> bytes | None:
    given = [
        (name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()
    ]
    return made.write(method.encode(), path.encode(), given, DATE)


def popular_answers(ring: KeyRing | None = None) -> tuple[PopularAnswers, Metrics]:
    metrics = Metrics()
    return PopularAnswers(toy_engine, ring, metrics), metrics


def heard(answer: bytes | None) -> tuple[dict[str, str], dict[str, Any]]:
    """Return headers and body of a whole answer."""
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert int(headers["content-length"]) == len(body)
    return headers, json.loads(body)


@pytest.mark.parametrize("num_items", [1, 10, 100])
async def test_the_answer_equals_that_of_the_application_above_its_limit(num_items: int) -> None:
    path = f"/recommend/ann?n={num_items}"
    async with serving(MemoryStore(), queue_limit=1) as service:
        limiter = service.serving.gate.limiter
        limiter.num_inside = 1000
        usual = await service.client.get(path)
    headers, body = heard(write(popular_answers()[0], path))
    differ = {"request_id", "recommendation_id", "timings_ms", "next_cursor"}
    assert usual.json().keys() == body.keys()
    assert {name for name, value in usual.json().items() if value != body[name]} == differ
    assert headers.keys() == {*usual.headers, "date"}
    assert headers["content-type"] == usual.headers["content-type"]
    TypeAdapter(Recommendation).validate_python(body)


def test_ids_are_of_each_answer_its_own_or_the_callers() -> None:
    made, _ = popular_answers()
    answers = [heard(write(made, "/v1/recommend/ann")) for _ in range(2)]
    for name in ("request_id", "recommendation_id"):
        assert answers[0][1][name] != answers[1][1][name]
    assert answers[0][0]["traceparent"] != answers[1][0]["traceparent"]
    headers, body = heard(write(made, X_Request_Id="mine.1", traceparent=TRACE))
    assert headers["x-request-id"] == body["request_id"] == "mine.1"
    assert headers["traceparent"].split("-")[1] == TRACE.split("-")[1]
    headers, body = heard(write(made, X_Request_Id="a b<"))
    assert headers["x-request-id"] == body["request_id"] != "a b<"


@pytest.mark.parametrize(
    "path",
    [
        "/recommend/ann?n=0",
        "/recommend/ann?n=101",
        "/recommend/ann?n=10&exclude=x",
        "/recommend/ann?category=x",
        "/recommend/a%20b",
        "/recommend/",
        "/recommend/ann?n=25&explain=true",
        "/recommend/ann/v",
        "/events/ann",
        "http://x/recommend/ann",
        "/recommend/" + 257 * "a",
        "/recommend/ann/",
        "/recommend:batch",
        "/v2/recommend/ann",
    ],
)
def test_a_request_with_more_than_a_number_of_items_has_none(path: str) -> None:
    assert write(popular_answers()[0], path) is None


@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS"])
def test_only_a_get_has_one(method: str) -> None:
    assert write(popular_answers()[0], method=method) is None


def test_answers_are_counted_before_metrics_are_rendered() -> None:
    made, metrics = popular_answers()
    for path in ("/recommend/ann", "/recommend/bob?n=3", "/v1/recommend/ann"):
        write(made, path)
    for _ in range(2):
        text = metrics.render().decode()
        for route, num in (("/recommend/{user_id}", 2), ("/v1/recommend/{user_id}", 1)):
            labels = f'{{route="{route}",source="popular",status="200"}}'
            assert read_metric(text, f"thinkahead_requests_total{labels}") == num
        assert read_metric(text, 'thinkahead_fallbacks_total{reason="overload"}') == 3
        assert read_metric(text, 'thinkahead_items_total{source="popular"}') == 23


def test_a_key_is_needed_where_one_is_and_its_rate_counts(tmp_path: Path) -> None:
    clients = [
        {"client": "shop", "scopes": ["recommend"], "keys": [{"sha256": SHOP.sha256}]},
        {"client": "tracker", "scopes": ["events"], "keys": [{"sha256": EVENTS.sha256}]},
        {
            "client": "slow",
            "scopes": ["recommend"],
            "keys": [{"sha256": SLOW.sha256}],
            "rate_per_s": 0.01,
            "burst": 2,
        },
    ]
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"clients": clients}))
    made, metrics = popular_answers(KeyRing(file))
    assert write(made) is None
    assert write(made, X_Api_Key="ta_nobody") is None
    assert write(made, X_Api_Key=EVENTS.key) is None
    assert write(made, X_Api_Key=SHOP.key) is not None
    assert write(made, Authorization=f"Bearer {SHOP.key}") is not None
    slow = [write(made, X_Api_Key=SLOW.key) is not None for _ in range(3)]
    assert slow == [True, True, False]
    text = metrics.render().decode()
    for name, num in (("shop", 2), ("slow", 2)):
        sample = f'thinkahead_client_requests_total{{client="{name}",outcome="taken"}}'
        assert read_metric(text, sample) == num


def test_another_release_is_another_answer_and_no_title_is_a_format() -> None:
    engine = toy_engine()
    catalog = dataclasses.replace(engine.catalog, titles=("100% %b %d",) * len(engine.catalog.sids))
    release = dataclasses.replace(engine.release, catalog=catalog)
    engines = [engine, Engine(release, engine.finisher)]
    made = PopularAnswers(lambda: engines[0], None, Metrics())
    assert heard(write(made))[1]["items"][0]["title"].startswith("Title of")
    del engines[0]
    assert heard(write(made))[1]["items"][0]["title"] == "100% %b %d"
