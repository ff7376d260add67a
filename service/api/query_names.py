"""Rejects query parameters that a route does not know, and names the nearest one that it knows."""

from collections.abc import Callable, Collection, Coroutine
from difflib import get_close_matches
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

_NEAR = 0.5  # of difflib's ratio, which is .5 for `num` and `n`


class StrictRoute(APIRoute):
    """A route that rejects query parameters it does not document."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, known = super().get_route_handler(), sorted(_names_of(self.dependant))

        async def handle_known(request: Request) -> Response:
            check_query_names(request, known)
            return await handle(request)

        return handle_known


def check_query_names(request: Request, known: Collection[str]) -> None:
    """Raise RequestValidationError for the query parameters that are not in `known`."""
    if not request.scope["query_string"]:
        return
    given = dict.fromkeys(request.query_params)
    errors = [
        {"loc": ("query", name), "msg": _explain(name, known)}
        for name in given
        if name not in known
    ]
    if errors:
        raise RequestValidationError(errors)


def _explain(name: str, known: Collection[str]) -> str:
    if not known:
        return "unknown parameter: this route has none in its query"
    near = get_close_matches(name.lower(), known, n=1, cutoff=_NEAR)
    return (
        f"unknown parameter, did you mean {near[0]}?"
        if near
        else (f"unknown parameter, expected one of {', '.join(known)}")
    )


def _names_of(dependant: Dependant) -> set[str]:
    """Return the query parameters of a route and of its dependencies."""
    names = set[str]()
    for each in dependant.query_params:
        annotation = each.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            names |= {field.alias or name for name, field in annotation.model_fields.items()}
        else:
            names.add(each.alias)
    return names.union(*(_names_of(each) for each in dependant.dependencies))
