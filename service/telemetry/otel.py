"""OpenTelemetry spans of requests and their stages; needs the extra `otel`.

A span is created when its request has ended, with the ids that the response has already sent in
`traceparent`. OpenTelemetry's own variables set destination, sampling and service name
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

from service.telemetry.request_headers import Trace

_STAGES = ("store", "queue", "encode", "finish")  # in the order of the pipeline
_PROPAGATED = (b"traceparent", b"tracestate")
_NS = 1_000_000_000


class SpanRecorder:
    """Creates spans and exports them from a background thread. For one event loop."""

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
        """Record a request that has just ended, and the stages of a recommendation."""
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
        """Export the queued spans. Blocks until they are sent or the exporter gives up."""
        self._provider.shutdown()


def otlp_recorder() -> SpanRecorder:
    """Return a recorder for the OTLP endpoint of the environment.

    Raises ImportError without the extra `otel`.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return SpanRecorder(OTLPSpanExporter())


class _PresetIds(RandomIdGenerator):
    """Gives the next span the ids of a `Trace`, and later spans random ids."""

    def __init__(self) -> None:
        self._trace: Trace | None = None

    def give(self, trace: Trace) -> None:
        self._trace = trace

    def generate_trace_id(self) -> int:
        """Return the trace id; the SDK calls this only if the caller sent no trace."""
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
    """Return start and end of each stage in unix nanoseconds.

    Only durations are known; the stages are placed one after the other.
    """
    found, at = {}, began_at
    for stage in _STAGES:
        if stage in seconds:
            end = at + int(seconds[stage] * _NS)
            found[stage], at = (at, end), end
    return found
