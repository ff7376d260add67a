"""Requests as OpenTelemetry spans: the real SDK, with its exporter that keeps them in memory."""

import importlib.util

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.telemetry.otel import SpanRecorder
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import InProcess, serving, start_service, toy_release_dir

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def spans_of(*paths: str, traceparent: str | None = None) -> list[ReadableSpan]:
    """Spans exported for these requests; they agree with the headers of the answers."""
    exporter = InMemorySpanExporter()
    spans = SpanRecorder(exporter)
    headers = {} if traceparent is None else {"traceparent": traceparent}
    async with serving(MemoryStore(), spans=spans) as service:
        named = [(await ask(service, path, headers)) for path in paths]
    spans.close()
    found = list(exporter.get_finished_spans())
    servers = [span for span in found if span.kind == SpanKind.SERVER]
    exported = [f"{span.context.trace_id:032x}-{span.context.span_id:016x}" for span in servers]
    assert not exported or exported == named
    return found


async def ask(service: InProcess, path: str, headers: dict[str, str]) -> str:
    """Trace and span as the answer names them."""
    answer = await service.client.get(path, headers=headers)
    _, trace, span, _ = answer.headers["traceparent"].split("-")
    return f"{trace}-{span}"


async def test_a_recommendation_is_a_span_of_the_callers_trace_with_its_stages_below() -> None:
    given = f"00-{TRACE}-{PARENT}-01"
    *stages, server = await spans_of("/v1/recommend/user?n=3", traceparent=given)
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == PARENT
    assert f"{server.context.trace_id:032x}" == TRACE
    assert server.name == "GET /v1/recommend/{user_id}"
    assert server.attributes is not None
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["thinkahead.source"] == "global"
    assert [stage.name for stage in stages] == ["store", "queue", "encode", "finish"]
    assert server.start_time is not None
    assert server.end_time is not None
    at = server.start_time
    for stage in stages:
        assert stage.parent is not None
        assert stage.parent.span_id == server.context.span_id
        assert stage.start_time == at
        assert stage.end_time is not None
        at = stage.end_time
    assert at <= server.end_time


async def test_a_request_without_a_trace_begins_one() -> None:
    first, second = await spans_of("/health/live", "/nothing")
    assert first.parent is None
    assert first.context.trace_id != second.context.trace_id
    assert (first.name, second.name) == ("GET /health/live", "GET unmatched")
    assert first.status.status_code != StatusCode.ERROR


async def test_a_trace_that_its_caller_does_not_record_is_not_recorded_here() -> None:
    assert await spans_of("/health/live", traceparent=f"00-{TRACE}-{PARENT}-00") == []


async def test_no_span_names_a_user() -> None:
    for span in await spans_of("/recommend/somebody-secret"):
        assert "somebody-secret" not in span.to_json()


@pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.exporter") is not None, reason="the extra is installed"
)
def test_wanting_spans_without_the_extra_is_one_line() -> None:
    process = start_service(
        *("--release", str(toy_release_dir()), "--port", "0"), environ={"THINKAHEAD_OTEL": "true"}
    )
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 78
    assert errors.splitlines()[-1].startswith("service: THINKAHEAD_OTEL: needs the extra `otel`")
