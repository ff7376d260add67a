"""The contract of the HTTP API: the exact JSON, every error as a problem, documents that hold."""

import json
import logging
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import numpy as np
import pytest

from service.api.openapi import EXAMPLES
from service.sources import Reason
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    InProcess,
    item_ids,
    serving,
    toy_engine,
    until_ready,
)


async def test_the_answer_has_exactly_the_agreed_fields(service: InProcess) -> None:
    answer = await service.recommend("user", n=2, explain="true")
    assert list(answer) == [
        *("request_id", "recommendation_id", "user_id", "source", "degraded", "generation"),
        *("release", "model", "experiment", "items", "next_cursor", "paths", "timings_ms"),
    ]
    assert list(answer["generation"]) == ["id", "created_at", "age_s"]
    assert list(answer["items"][0]) == [
        *("item_id", "rank", "score", "sid", "source", "title", "path", "because", "reason"),
    ]
    assert answer["paths"][0] == {"path": 0, "text": "Thought 0"}
    assert list(answer["timings_ms"]) == ["store", "queue", "encode", "finish", "total"]
    assert all(value >= 0 for value in answer["timings_ms"].values())
    assert answer["user_id"] == "user"
    engine = toy_engine()
    assert answer["release"] == f"{engine.release.name}@{engine.release.version}"


async def test_an_item_names_the_items_of_the_history_that_speak_for_it(
    service: InProcess,
) -> None:
    catalog, neighbours = toy_engine().catalog, toy_engine().release.load_neighbours()
    assert neighbours is not None
    history = [3, 77, 12]
    for row in history:
        await service.client.post("/events/reader", json={"item_id": catalog.item_ids[row]})
    answer = await service.recommend("reader", n=100)
    rows = catalog.rows([item["item_id"] for item in answer["items"]])
    reasons = neighbours.reasons(np.array(history[::-1]), rows)
    for item, reason in zip(answer["items"], reasons, strict=True):
        expected = [catalog.item_ids[row] for row in reason] or None
        assert item["because"] == (None if item["source"] == "popular" else expected)
    assert {item["because"] is None for item in answer["items"]} == {True, False}


async def test_paths_come_with_explain_only(service: InProcess) -> None:
    assert "paths" not in await service.recommend("user")
    assert (await service.recommend("nobody", explain="true"))["paths"] == []


@pytest.mark.parametrize("n", [1, 10, 100])
async def test_n_items_are_returned(service: InProcess, n: int) -> None:
    assert len((await service.recommend("user", n=n))["items"]) == n


@pytest.mark.parametrize(
    "user", ["😀", "مرحبا", "é", "e\u0301", "a/b", "a b?c#d%", "x" * 256, "é" * 128]
)
async def test_user_ids_are_opaque_text(service: InProcess, user: str) -> None:
    path = quote(user, safe="")
    await service.client.post(f"/events/{path}", json={"item_id": item_ids(1)[0]})
    answer = await service.recommend(path)
    assert (answer["user_id"], answer["source"]) == (user, "online")


@pytest.mark.parametrize(
    ("method", "path", "status", "where"),
    [
        ("GET", "/recommend/user?n=0", 422, "query.n"),
        ("GET", "/recommend/user?n=101", 422, "query.n"),
        ("GET", "/recommend/user?n=many", 422, "query.n"),
        ("GET", "/recommend/user?explain=perhaps", 422, "query.explain"),
        ("GET", "/recommend/%00", 422, "path.user_id"),
        ("GET", "/recommend/%0a", 422, "path.user_id"),
        ("GET", "/recommend/%ff", 422, "path.user_id"),
        ("GET", "/recommend/%ed%a0%80", 422, "path.user_id"),
        ("GET", "/recommend/" + "x" * 257, 422, "path.user_id"),
        ("GET", "/recommend/" + "%C3%A9" * 129, 422, "path.user_id"),
        ("GET", "/recommend/", 422, "path.user_id"),
        ("GET", "/recommend/a/b", 404, None),
        ("GET", "/recommend", 404, None),
        ("GET", "/nothing/here", 404, None),
        ("POST", "/recommend/user", 405, None),
        ("GET", "/events/user", 405, None),
        ("POST", "/events/user", 422, "body"),
    ],
)
async def test_every_error_is_a_problem(
    service: InProcess, method: str, path: str, status: int, where: str | None
) -> None:
    answer = await service.client.request(method, path)
    assert_problem(answer, status)
    errors = answer.json().get("errors", [{"where": None}])
    assert errors[0]["where"] == where


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 422),
        (b'{"item_id": "\xff"}', 400),
        (b"[" * 60_000, 400),
        (b" " * 65_537, 413),
        (b"null", 422),
        (rb'{"item_id": "\ud800"}', 422),
        (rb'{"item_id": "x", "\ud800": 1}', 422),
        (b'{"item_id": "x", "timestamp": NaN}', 422),
        (b'{"item_id": "x", "timestamp": 1e999}', 422),
        (b'{"item_id": "x", "timestamp": ' + b"9" * 1000 + b"}", 422),
        (json.dumps({"item_id": "x"} | {f"k{at}": at for at in range(1000)}).encode(), 422),
    ],
)
async def test_a_hostile_body_is_a_problem_too(
    service: InProcess, content: bytes, status: int
) -> None:
    headers = {"content-type": "application/json"}
    answer = await service.client.post("/events/user", content=content, headers=headers)
    assert_problem(answer, status)
    assert len(answer.json().get("errors", [])) <= 20


def assert_problem(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]


async def test_405_says_what_is_allowed(service: InProcess) -> None:
    assert (await service.client.post("/recommend/user")).headers["allow"] == "GET"


async def test_a_bug_is_a_problem_with_the_id_that_the_log_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(MemoryStore):
        async def before_read(self, user_id: str) -> None:
            raise RuntimeError("internals")

    async with serving(Broken()) as service:
        answer = await service.client.get("/recommend/user")
        assert_problem(answer, 500)
        assert "internals" not in answer.text
        sample = 'thinkahead_requests_total{route="/recommend/{user_id}",source="",status="500"}'
        assert await service.metric(sample) == 1
    assert answer.json()["request_id"] in caplog.text


async def test_a_callers_request_id_is_kept_if_it_is_harmless(service: InProcess) -> None:
    for given, is_kept in (("abc-123_x.y:z", True), ("a b", False), ("x" * 129, False)):
        headers = {"x-request-id": given}
        answer = await service.client.get("/recommend/user", headers=headers)
        assert (answer.headers["x-request-id"] == given) is is_kept
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_alive_and_ready_do_not_ask_the_store(service: InProcess) -> None:
    store = MemoryStore()
    store.is_away = True
    async with serving(store) as service:
        await until_ready(service)
        assert (await service.client.get("/health/live")).json() == {"status": "alive"}
        ready = await service.client.get("/health/ready")
        assert ready.json() == {
            "status": "ready",
            "release": toy_engine().label,
            "manifest_epoch": None,
            "warning": None,
        }


async def test_ready_names_the_manifest_in_use(service: InProcess) -> None:
    assert (await service.client.get("/health/ready")).json()["manifest_epoch"] == 1


async def test_metrics_count_requests_stages_fallbacks_and_age(service: InProcess) -> None:
    await service.recommend("user")
    await service.recommend("nobody")
    for sample, value in {
        'thinkahead_requests_total{route="/recommend/{user_id}",source="personal",status="200"}': 1,
        'thinkahead_requests_total{route="/recommend/{user_id}",source="global",status="200"}': 1,
        'thinkahead_items_total{source="personal"}': 10,
        'thinkahead_stage_seconds_count{stage="finish"}': 2,
        'thinkahead_stage_seconds_count{stage="total"}': 2,
        'thinkahead_fallbacks_total{reason="no_history"}': 1,
        "thinkahead_record_age_seconds_count": 1,
        "thinkahead_manifest_epoch": 1,
        "thinkahead_ready": 1,
    }.items():
        assert await service.metric(sample) == value, sample
    text = (await service.client.get("/metrics")).text
    for reason in Reason:
        assert f'thinkahead_fallbacks_total{{reason="{reason}"}}' in text


async def test_no_user_is_named_in_the_logs(
    service: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="service"):
        await service.recommend("a-private-person")
        await service.client.post("/events/a-private-person", json={"item_id": "secret"})
    assert "private" not in caplog.text
    assert "secret" not in caplog.text


async def openapi(service: InProcess) -> dict[str, Any]:
    document: dict[str, Any] = (await service.client.get("/openapi.json")).json()
    return document


async def test_every_documented_example_fits_its_schema(service: InProcess) -> None:
    document = await openapi(service)
    num_checked, num_problems = 0, 0
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                for media in response.get("content", {}).values():
                    if "example" in media:
                        schema = media["schema"] | {"components": document["components"]}
                        jsonschema.validate(media["example"], schema)
                        num_checked += 1
                        num_problems += "Problem" in media["schema"].get("$ref", "")
    assert num_checked == len(EXAMPLES) + num_problems
    assert num_problems > 20


async def test_real_answers_fit_the_documented_schemas(service: InProcess) -> None:
    document = await openapi(service)
    for path, method, url, body in (
        ("/recommend/{user_id}", "get", "/recommend/user?explain=true", None),
        ("/recommend/{user_id}", "get", "/recommend/nobody", None),
        ("/recommend/{user_id}", "get", "/recommend/user?n=0", None),
        ("/events/{user_id}", "post", "/events/user", {"item_id": "x"}),
        ("/events/{user_id}", "post", "/events/user", {}),
        ("/health/live", "get", "/health/live", None),
        ("/health/ready", "get", "/health/ready", None),
    ):
        answer = await service.client.request(method, url, json=body)
        responses = document["paths"][path][method]["responses"]
        media = responses[str(answer.status_code)]["content"][answer.headers["content-type"]]
        schema = media["schema"] | {"components": document["components"]}
        jsonschema.validate(answer.json(), schema)


async def test_errors_are_documented_as_problems_only(service: InProcess) -> None:
    for operations in (await openapi(service))["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"]
                    assert "example" in response["content"]["application/problem+json"]


async def test_every_json_answer_is_documented_with_an_example(service: InProcess) -> None:
    for path, operations in (await openapi(service))["paths"].items():
        for method, operation in operations.items():
            assert {"422", "500"} & set(operation["responses"]), (path, method)
            for status, response in operation["responses"].items():
                for media in response.get("content", {}).values():
                    assert "example" in media or path == "/metrics", (path, method, status)
