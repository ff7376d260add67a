"""The OpenAPI document: what FastAPI derives from the routes, and what it cannot say.

That is the one schema of all errors, which a `model=` would document as plain JSON too, and
examples with nulls in them, which FastAPI 0.136 strips.
"""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from service.flood import CRITICALITY_HEADER, FLOODED
from service.guard import document_keys
from service.problems import Problem, documented

_RECOMMENDATION = {
    "request_id": "0b6f7c1d9a3e4f52",
    "user_id": "A2CG5Y82ZZNY6W",
    "source": "personal",
    "degraded": False,
    "generation": {"id": 1767225600000, "created_at": 1767225600, "age_s": 21600},
    "release": "beauty@4f6c1d2a90b3",
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
        },
        {
            "item_id": "B0009V1YR8",
            "rank": 2,
            "score": None,
            "sid": [7, 2, 19],
            "source": "popular",
            "title": None,
            "path": None,
        },
    ],
    "paths": [{"path": 0, "text": "The user cares for dry hair: conditioners, then oils."}],
    "timings_ms": {"store": 0.61, "queue": 0.05, "encode": 0.3, "finish": 0.9, "total": 2.1},
}
_TAKEN_EVENT = {
    "request_id": "0b6f7c1d9a3e4f52",
    "user_id": "A2CG5Y82ZZNY6W",
    "event_id": "click-8f14e45f",
    "item_id": "B004OHQR1Q",
    "timestamp": 1767225600,
    "known": True,
    "stored": True,
    "new": True,
}
_CRITICALITY = {
    "name": CRITICALITY_HEADER,
    "in": "header",
    "required": False,
    "description": "Who goes first under overload: `sheddable`, then `default`, last `critical`. "
    "Beyond what the process can work on in time an answer is `popular`, and beyond a second bound "
    "503 with `Retry-After`. Any other word counts as `default`.",
    "schema": {"type": "string", "default": "default"},
    "example": "sheddable",
}
EXAMPLES: dict[tuple[str, str, str], dict[str, Any]] = {
    ("/recommend/{user_id}", "get", "200"): _RECOMMENDATION,
    ("/events/{user_id}", "post", "200"): _TAKEN_EVENT,
    ("/events/{user_id}", "post", "202"): _TAKEN_EVENT | {"stored": False, "new": None},
    ("/health/live", "get", "200"): {"status": "alive"},
    ("/health/ready", "get", "200"): {
        "status": "ready",
        "release": "beauty@4f6c1d2a90b3",
        "manifest_epoch": 7,
    },
}


def install(app: FastAPI) -> None:
    """Complete the document that `app.openapi` gives."""
    derived = app.openapi

    def openapi() -> dict[str, Any]:
        document = derived()
        _document_overload(document)
        document["components"]["schemas"].update(_problem_schemas())
        document_keys(document)
        for (path, method, status), example in EXAMPLES.items():
            response = document["paths"][path][method]["responses"][status]
            response["content"]["application/json"]["example"] = example
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own documentation does


def _document_overload(document: dict[str, Any]) -> None:
    """What holds for every recommendation, whatever its route."""
    for path, methods in document["paths"].items():
        if "/recommend" not in path:
            continue
        for operation in methods.values():
            operation.setdefault("parameters", []).append(_CRITICALITY)
            operation["responses"].update(documented({503: FLOODED}))


def _problem_schemas() -> dict[str, Any]:
    """`Problem` and what it refers to, by name."""
    _, definitions = models_json_schema(
        [(Problem, "serialization")], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas
