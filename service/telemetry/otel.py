"""Requests and their stages as OpenTelemetry spans; needs the extra `otel`.

SpanRecorder are made when a request is over, with the ids that its answer has already named in
`traceparent`. Where they go and how many of them is said by OpenTelemetry's own variables
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`).
"""

import time
from collections.abc import Mapping

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from service.telemetry.trace_context import Trace

_STAGES = ("store", "queue", "encode", "finish")  # one after the other, as the pipeline works
_PROPAGATED = (b"traceparent", b"tracestate")
_NS = 1_000_000_000


class SpanRecorder:
    """Hands spans to an exporter, from a thread of its own. For one event loop."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._ids = _PresetIds()
        provider = TracerProvider(
            resource=Resource.create({"service.name": "think-ahead"}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._provider = provider
        self._tracer = provider.get_tracer("think-ahead")
        self._propagator = TraceContextTextMapPropagator()

    def record(self, scope: Scope, *, route: str, status: int, seconds: float) -> None:
        """A request that has just ended, and its stages where it was a recommendation."""
        state, ended_at = scope["state"], time.time_ns()
        began_at = ended_at - int(seconds * _NS)
        self._ids.give(state["trace"])
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            self._propagator.extract(_trace_headers(scope)),
            kind=SpanKind.SERVER,
            start_time=began_at,
            attributes={
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": status,
                "thinkahead.request_id": state["request_id"],
                "thinkahead.source": state.get("source", ""),
            },
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        context = set_span_in_context(span)
        for stage, (start, end) in _stage_intervals(state.get("seconds", {}), began_at).items():
            self._tracer.start_span(stage, context, start_time=start).end(end)
        span.end(ended_at)

    def close(self) -> None:
        """Blocks until what waits is exported, or the exporter gives up."""
        self._provider.shutdown()


def otlp_recorder() -> SpanRecorder:
    """To the OTLP endpoint of the environment. Raises ImportError without the extra."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return SpanRecorder(OTLPSpanExporter())


class _PresetIds(RandomIdGenerator):
    """The next span gets the ids of a trace; the ones after it their own."""

    def __init__(self) -> None:
        self._trace: Trace | None = None

    def give(self, trace: Trace) -> None:
        self._trace = trace

    def generate_trace_id(self) -> int:
        """Asked for only where the caller brought no trace."""
        return int(self._trace.trace_id, 16) if self._trace else super().generate_trace_id()

    def generate_span_id(self) -> int:
        trace, self._trace = self._trace, None
        return int(trace.span_id, 16) if trace else super().generate_span_id()


def _trace_headers(scope: Scope) -> dict[str, str]:
    return {
        name.decode(): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in _PROPAGATED
    }


def _stage_intervals(seconds: Mapping[str, float], began_at: int) -> dict[str, tuple[int, int]]:
    """Start and end of each stage, unix nanoseconds: only how long each took is known."""
    found, at = {}, began_at
    for stage in _STAGES:
        if stage in seconds:
            end = at + int(seconds[stage] * _NS)
            found[stage], at = (at, end), end
    return found
