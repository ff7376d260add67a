"""Trace context: a valid trace of the caller is continued, any other header starts a new one."""

import re

import pytest

from service.telemetry.request_headers import continue_trace
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import serving

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("given", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_a_valid_trace_is_continued_with_a_span_of_ours(given: str, is_sampled: bool) -> None:
    trace = continue_trace(given.encode())
    assert (trace.trace_id, trace.is_sampled) == (TRACE, is_sampled)
    assert re.fullmatch("[0-9a-f]{16}", trace.span_id)
    assert trace.span_id != SPAN
    assert trace.header.decode() == f"00-{TRACE}-{trace.span_id}-{'01' if is_sampled else '00'}"


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f" 00-{TRACE}-{SPAN}-01",
    ],
)
def test_anything_else_begins_a_fresh_one(given: str | None) -> None:
    traces = [continue_trace(given.encode() if given is not None else None) for _ in range(2)]
    assert len({trace.trace_id for trace in traces} | {TRACE}) == 3
    assert not traces[0].is_sampled
    assert continue_trace(traces[0].header).trace_id == traces[0].trace_id


async def test_every_answer_carries_the_trace_and_a_recommendation_its_times() -> None:
    async with serving(MemoryStore()) as service:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
        answer = await service.client.get("/v1/recommend/user", headers=headers)
        assert answer.headers["traceparent"].split("-")[1] == TRACE
        stages = [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")]
        assert stages == list(answer.json()["timings_ms"])
        refused = await service.client.get("/nothing", headers=headers)
        assert refused.headers["traceparent"].split("-")[1] == TRACE
        fresh = await service.client.get("/health/live")
        assert fresh.headers["traceparent"].split("-")[1] != TRACE


async def test_every_answer_is_named_and_names_its_model() -> None:
    async with serving(MemoryStore()) as service:
        answers = [await service.recommend("user") for _ in range(2)]
        assert answers[0]["recommendation_id"] != answers[1]["recommendation_id"]
        weights = service.serving.engine.release.manifest.files["online.safetensors"]
        assert answers[0]["model"].startswith(f"online@{weights[:12]}/")
        late = await service.recommend("user", timeout_ms=1)
        assert late["source"] != "popular" or late["model"] is None
