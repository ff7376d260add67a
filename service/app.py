"""The ASGI application: routes, error handlers and middleware around one `Serving`.

All collaborators are arguments of `create_app`. Importing this module reads no settings and opens
no connection.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from models.store.contract import ServingStore
from service import problems
from service.api import (
    event_routes,
    health_routes,
    item_routes,
    openapi,
    recommend_routes,
    user_routes,
)
from service.api.middleware import BodyLimit, RequestContext
from service.api.popular_answers import PopularAnswers
from service.auth.api_keys import KeyRing
from service.auth.key_middleware import ApiKeyMiddleware
from service.explore.explore_routes import explore_router
from service.explore.page_files import page_router
from service.recommend.engine import Engine
from service.serving import Serving
from service.settings import ServiceSettings, is_loopback
from service.telemetry.logs import LogFormat, RequestLog
from service.workers.crew import Crew

if TYPE_CHECKING:
    from service.telemetry.otel import SpanRecorder  # needs the extra `otel`


def create_app(
    settings: ServiceSettings,
    *,
    engine: Engine,
    store: ServingStore,
    arms: Mapping[Path, Engine] | None = None,
    ring: KeyRing | None = None,
    spans: "SpanRecorder | None" = None,
    crew: Crew | None = None,
    beside: Callable[[Serving], AbstractAsyncContextManager[object]] = nullcontext,
) -> FastAPI:
    """Build the public application. The end of its lifespan closes the store.

    Args:
        settings: configuration of this process.
        engine: the release to serve.
        store: read and written by all routes.
        arms: engines of the releases that experiments name in the settings, by directory.
        ring: API keys; None if callers need no key.
        spans: recorder of OpenTelemetry spans; None for no tracing.
        crew: the other workers of this service; None for a process alone.
        beside: context manager that is entered while the application serves (the admin port).
    """
    serving = Serving(settings, engine, store, arms or {})
    request_log = RequestLog() if settings.log_format == LogFormat.JSON else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await serving.start()
        try:
            async with beside(serving):
                yield
        finally:
            await serving.stop()

    app = FastAPI(
        title="Think-Ahead",
        description="Recommendations: a reasoning model thinks ahead, a small one finishes.",
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere
        redoc_url=None,
    )
    app.state.serving, app.state.crew = serving, crew
    app.state.write_popular = PopularAnswers(lambda: serving.engine, ring, serving.metrics).write
    for prefix in ("", "/v1"):  # the most frequent route first: the first match wins
        app.include_router(recommend_routes.hot_router, prefix=prefix)
    for prefix in ("", "/v1"):
        app.include_router(event_routes.router, prefix=prefix)
    for router in (
        recommend_routes.router,
        event_routes.batch_router,
        user_routes.router,
        item_routes.router,
        health_routes.router,
        page_router("/docs"),
    ):
        app.include_router(router)
    # FastAPI puts the routes of the documentation first; each would cost every request a match.
    app.router.routes.sort(key=lambda route: not isinstance(route, recommend_routes.DirectRoute))
    if settings.explore and is_loopback(settings.host):
        app.include_router(explore_router(serving, store, has_keys=ring is not None))
    problems.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit)
    failed = "1 while the changed key file is invalid and the old keys are in use."
    serving.metrics.watch(
        "keys_refused", failed, lambda: ring is not None and bool(ring.failure), merge="max"
    )
    if ring is not None:
        app.add_middleware(ApiKeyMiddleware, ring=ring, metrics=serving.metrics)
    app.add_middleware(
        RequestContext,
        metrics=serving.metrics,
        log=request_log,
        spans=spans,
        is_draining=serving.draining.is_set,
    )
    return app
