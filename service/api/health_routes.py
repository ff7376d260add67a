"""Routes of health and metrics, for an orchestrator and a monitoring system."""

from fastapi import APIRouter, Request
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from service.api.params import CurrentServing
from service.api.query_names import StrictRoute
from service.api.responses import Alive, Ready
from service.problems import problem, problem_responses
from service.workers.channel import ChannelError
from service.workers.crew import Crew

router = APIRouter(route_class=StrictRoute)


@router.get(
    "/health/live", summary="Check that the process answers", responses=problem_responses({})
)
async def live() -> Alive:
    return Alive()


@router.get(
    "/health/ready",
    summary="Check that the process is ready for traffic",
    response_model=Ready,
    responses=problem_responses({503: "the self-test has not finished"}),
)
async def ready(request: Request, serving: CurrentServing) -> Response:
    """Return 200 after the `global` and `popular` rungs have passed a self-test.

    The store is not contacted: an outage must not make every instance unready at once.
    """
    if serving.unready is not None:
        return problem(503, serving.unready, request_id=request.state.request_id)
    epoch = serving.manifest.current.epoch if serving.manifest.current else None
    answer = Ready(
        release=serving.engine.label,
        manifest_epoch=epoch,
        warning=serving.foreign_users.warning,
    )
    return Response(answer.model_dump_json(), media_type="application/json")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **problem_responses({503: "no answer to 'page' within 5 s"}),
    },
)
async def metrics(request: Request, serving: CurrentServing) -> Response:
    """Return the metrics of this service: of all its workers, if there are several."""
    crew: Crew | None = request.app.state.crew
    try:
        page = serving.metrics.render() if crew is None else await crew.metrics_page()
    except ChannelError as exc:
        return problem(503, str(exc), request_id=request.state.request_id)
    return Response(page, media_type=CONTENT_TYPE_LATEST)
