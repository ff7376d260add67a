"""Completes the OpenAPI document that FastAPI derives from the routes.

Adds the error schema (a `model=` would document errors as plain JSON too), examples with nulls
(FastAPI 0.136 strips them), response headers, API keys and the responses of overload.
"""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from service.auth.key_middleware import document_keys
from service.limits.connections import WHY_NOT_READ
from service.limits.replies import FLOODED
from service.problems import NOT_ACCEPTED, Problem, problem_responses
from service.telemetry.request_headers import CRITICALITY_HEADER

_RECOMMENDATION = {
    "request_id": "0b6f7c1d9a3e4f52",
    "recommendation_id": "5f1c0a9e8b7d4c3f92a1b0c4d5e6f708",
    "user_id": "A2CG5Y82ZZNY6W",
    "source": "personal",
    "degraded": False,
    "generation": {"id": 1767225600000, "created_at": 1767225600, "age_s": 21600},
    "release": "beauty@4f6c1d2a90b3",
    "model": "online@9c04de1f7a52/native",
    "experiment": [{"name": "union-mode", "arm": "control"}],
    "items": [
        {
            "item_id": "B004OHQR1Q",
            "rank": 1,
            "score": -4.17,
            "sid": [12, 40, 3],
            "source": "personal",
            "title": "Repair Leave-In Conditioner",
            "path": 0,
            "because": ["B0012UX3TA"],
            "reason": {
                "ground": "memory",
                "text": 'Others had it soon before or after "Argan Oil" (5.4 times, by nearness). '
                "Path 0 names its topic: Hair Care > Conditioners.",
                "parts": {"model": -7.31, "memory": 1.9, "night": 1.24, "wish": 0.0},
                "evidence": [{"item_id": "B0012UX3TA", "share": 1.0, "times": 5.4, "cosine": 0.0}],
                "thought": {"path": 0, "topic": "Hair Care > Conditioners"},
            },
        },
        {
            "item_id": "B0009V1YR8",
            "rank": 2,
            "score": None,
            "sid": [7, 2, 19],
            "source": "popular",
            "title": None,
            "path": None,
            "because": None,
            "reason": {
                "ground": "popular",
                "text": "Many users have had it.",
                "parts": None,
                "evidence": [],
                "thought": None,
            },
        },
    ],
    "next_cursor": "AWdLrQAAAAAAAAAABwAAAZt3hYAAk0rX",
    "paths": [{"path": 0, "text": "The user cares for dry hair: conditioners, then oils."}],
    "timings_ms": {"store": 0.61, "queue": 0.05, "encode": 0.3, "finish": 0.9, "total": 2.1},
}
_TAKEN_EVENT = {
    "request_id": "0b6f7c1d9a3e4f52",
    "user_id": "A2CG5Y82ZZNY6W",
    "event_id": "click-8f14e45f",
    "item_id": "B004OHQR1Q",
    "timestamp": 1767225600,
    "type": "click",
    "value": None,
    "known": True,
    "stored": True,
    "new": True,
    "reason": None,
}
_WAITING_EVENT = _TAKEN_EVENT | {"stored": False, "new": None, "reason": "waiting"}
_CRITICALITY = {
    "name": CRITICALITY_HEADER,
    "in": "header",
    "required": False,
    "description": "Order of rejection under overload: `sheddable` first, then `default`, then "
    "`critical`. Above the number of requests that the process can answer in time, an answer is "
    "`popular`. Above a second limit it is 503 with `Retry-After`, or `popular` for a request with "
    "no parameter other than `n`. Any other value counts as `default`.",
    "schema": {"type": "string", "default": "default"},
    "example": "sheddable",
}
_BATCH = {
    "request_id": "0b6f7c1d9a3e4f52",
    "results": [
        {"user_id": "A2CG5Y82ZZNY6W", "status": 200, "recommendation": _RECOMMENDATION},
        {"user_id": "", "status": 422, "detail": "user id '' has 0 bytes, expected 1..256"},
    ],
}
_TAKEN_BATCH = {
    "request_id": "0b6f7c1d9a3e4f52",
    "results": [
        {
            "status": 200,
            "user_id": "ann",
            "event_id": "click-1",
            "known": True,
            "stored": True,
            "new": True,
        },
        {"status": 422, "user_id": "", "detail": "user id '' has 0 bytes, expected 1..256"},
    ],
}
_ACCEPTED = {"request_id": "0b6f7c1d9a3e4f52", "user_id": "A2CG5Y82ZZNY6W", "workers": 1}
_TAKEN_ITEMS = {
    "request_id": "0b6f7c1d9a3e4f52",
    "results": [
        {"status": 202, "item_id": "new-soap-1", "known": False},
        {"status": 422, "item_id": "", "detail": "item: item_id: '' has 0 bytes, expected 1..256"},
    ],
}
_Example = dict[str, Any]
EXAMPLES: dict[tuple[str, str, str], _Example] = {
    ("/recommend/{user_id}", "get", "200"): _RECOMMENDATION,
    ("/v1/recommend/{user_id}", "get", "200"): _RECOMMENDATION,
    ("/v1/recommend", "post", "200"): _RECOMMENDATION,
    ("/v1/recommend:batch", "post", "200"): _BATCH,
    ("/events/{user_id}", "post", "200"): _TAKEN_EVENT,
    ("/events/{user_id}", "post", "202"): _WAITING_EVENT,
    ("/v1/events/{user_id}", "post", "200"): _TAKEN_EVENT,
    ("/v1/events/{user_id}", "post", "202"): _WAITING_EVENT,
    ("/v1/events:batch", "post", "200"): _TAKEN_BATCH,
    ("/v1/items", "post", "200"): _TAKEN_ITEMS,
    ("/v1/users/{user_id}/think", "post", "202"): _ACCEPTED,
    ("/v1/users/{user_id}", "delete", "202"): _ACCEPTED,
    ("/health/live", "get", "200"): {"status": "alive"},
    ("/health/ready", "get", "200"): {
        "status": "ready",
        "release": "beauty@4f6c1d2a90b3",
        "manifest_epoch": 7,
        "warning": None,
    },
}
_RESPONSE_HEADERS = {
    "X-Request-Id": (
        "The caller's own id if it is valid, otherwise a new one.",
        "0b6f7c1d9a3e4f52",
    ),
    "traceparent": (
        "W3C trace context: the caller's trace if it is valid, with a new span.",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
}
# Statuses that a connection may send before it has parsed a request, without these headers.
_UNPARSED_STATUSES = {"400", "408", "414", "431", "503"}
_SERVER_TIMING = ("Milliseconds per stage, as in `timings_ms`.", "store;dur=0.610, total;dur=2.100")


def install(app: FastAPI) -> None:
    """Replace `app.openapi` by a function that returns the completed document."""
    derived = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = derived()
        _document_connections(document)
        _document_query_names(document)
        _document_overload(document)
        document["components"]["schemas"].update(_problem_schemas())
        document_keys(document)
        for (path, method, status), example in EXAMPLES.items():
            response = document["paths"][path][method]["responses"][status]
            response["content"]["application/json"]["example"] = example
        _add_headers(document)
        _forbid_null_parameters(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own documentation does


def _document_connections(document: dict[str, Any]) -> None:
    """Add the errors of connections, which any route can return."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, problem in problem_responses(WHY_NOT_READ).items():
                operation["responses"].setdefault(str(status), problem)


def _document_query_names(document: dict[str, Any]) -> None:
    """Add status 422 to every route: it rejects a query parameter that it does not know."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, problem in problem_responses({422: NOT_ACCEPTED}).items():
                operation["responses"].setdefault(str(status), problem)


def _document_overload(document: dict[str, Any]) -> None:
    """Add the X-Criticality header and status 503 to every recommendation route."""
    for path, methods in document["paths"].items():
        if "/recommend" not in path:
            continue
        for operation in methods.values():
            operation.setdefault("parameters", []).append(_CRITICALITY)
            refusals = problem_responses({503: FLOODED})
            operation["responses"] |= {str(status): each for status, each in refusals.items()}


def _add_headers(document: _Example) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                for name, about in _RESPONSE_HEADERS.items():
                    header = _header(*about) | {"required": status not in _UNPARSED_STATUSES}
                    response.setdefault("headers", {})[name] = header
            if _returns_schema(operation, "Recommendation"):
                operation["responses"]["200"]["headers"]["Server-Timing"] = _header(*_SERVER_TIMING)


def _forbid_null_parameters(document: _Example) -> None:
    """Remove null from the types of parameters: `null` in a URL is a string.

    Pydantic adds it because an omitted parameter is None in Python.
    """
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                kinds = parameter["schema"].pop("anyOf", [{}])
                (kind,) = (each for each in kinds if each.get("type") != "null")
                parameter["schema"] = kind | parameter["schema"]


def _header(description: str, example: str) -> _Example:
    return {
        "description": description,
        "required": True,
        "schema": {"type": "string"},
        "example": example,
    }


def _returns_schema(operation: _Example, name: str) -> bool:
    content = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
    return bool(content.get("schema", {}).get("$ref", "").endswith(f"/{name}"))


def _problem_schemas() -> dict[str, Any]:
    """Return the schemas of `Problem` and of the models in it, by name."""
    _, definitions = models_json_schema(
        [(Problem, "serialization")], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas
