"""The client's calls, each with its HTTP request and the type of its answer.

Knows routes and bodies. Knows nothing of connections, deadlines or retries.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from thinkahead_client.answers import (
    Accepted,
    Recommendation,
    RecommendationBatch,
    TakenBatch,
    TakenEvent,
    TakenItems,
)
from thinkahead_client.errors import BadAnswer, InvalidArgument, parse_refusal
from thinkahead_client.ids import Id, id_text

Answer = TypeVar("Answer", bound=BaseModel)
_OK = (200, 202)


class RecommendParams(TypedDict, total=False):
    """Optional parameters of a recommendation."""

    n: int  # number of items, 1 to 100; default 10
    exclude: Sequence[Id]  # item ids to leave out; at most 200 in `recommend`, otherwise 2,000
    category: str  # exact text of any level of a category path
    exclude_seen: bool  # leave out items of the history; default True
    explain: bool  # add the thoughts; default False
    mode: Literal["strict", "union"]  # default: the service's setting


class PagedParams(RecommendParams, total=False):
    """Optional parameters of a recommendation that can be continued."""

    cursor: str  # `next_cursor` of an answer; keep all other parameters unchanged


@dataclass(frozen=True)
class NewEvent:
    """An interaction of a user with an item. One object is one event, however often it is sent."""

    user_id: Id
    item_id: Id
    timestamp: int | None = None  # unix seconds; None: now
    # Appending an event with the same id again adds nothing.
    event_id: Id = field(default_factory=lambda: secrets.token_hex(16))
    type: str | None = None  # kind of the interaction, such as "click"
    value: float | None = None  # amount that belongs to it, such as a price

    def body(self) -> dict[str, Any]:
        """Return the JSON body, without the user id. Raises InvalidArgument."""
        body = {name: value for name, value in vars(self).items() if value is not None}
        del body["user_id"]
        return body | {name: id_text(body[name]) for name in ("item_id", "event_id")}


@dataclass(frozen=True)
class NewItem:
    """An item for the feed: a new one, new texts of a known one, or a withdrawal."""

    item_id: Id
    title: str | None = None
    brand: str | None = None
    categories: Sequence[str] = ()  # from coarse to fine
    description: str | None = None
    withdrawn: bool = False  # no longer to be recommended

    def body(self) -> dict[str, Any]:
        """Return the JSON body. Raises InvalidArgument."""
        texts = {name: value for name, value in vars(self).items() if value}
        return texts | {"item_id": id_text(self.item_id), "categories": list(self.categories)}


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One HTTP request and the type of its answer."""

    method: str
    path: str
    model: type[Answer]  # of the response body
    params: Mapping[str, Any] = field(default_factory=dict)  # of the query
    body: Any = None  # JSON
    may_hedge: bool = False  # a second request at the same time is safe and cheap
    is_idempotent: bool = True  # a repeated request has no further effect

    def read(self, response: httpx.Response) -> Answer:
        """Parse the answer. Raises Refused or BadAnswer."""
        if response.is_client_error or response.is_server_error:
            raise parse_refusal(response.status_code, response.headers, response.content)
        if response.status_code not in _OK:
            raise BadAnswer(f"{self}: status {response.status_code}")
        try:
            return self.model.model_validate_json(response.content)
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BadAnswer(f"{self}: not a {self.model.__name__}: {where} {first['msg']}") from exc

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def recommend(user_id: Id, params: PagedParams) -> Call[Recommendation]:
    path = f"/v1/recommend/{_segment(user_id)}"
    return Call("GET", path, Recommendation, _params(params), may_hedge=True)


def for_history(history: Sequence[Id], params: PagedParams) -> Call[Recommendation]:
    body = {"history": _ids(history), **_with_ids(params)}
    return _post_query("/v1/recommend", Recommendation, body)


def in_session(user_id: Id, session: Sequence[Id], params: PagedParams) -> Call[Recommendation]:
    events = [{"item_id": item_id} for item_id in _ids(session)]
    body = {"user_id": id_text(user_id), "session": events, **_with_ids(params)}
    return _post_query("/v1/recommend", Recommendation, body)


def batch(user_ids: Sequence[Id], params: RecommendParams) -> Call[RecommendationBatch]:
    body = {"user_ids": _ids(user_ids), **_with_ids(params)}
    return _post_query("/v1/recommend:batch", RecommendationBatch, body)


def append(event: NewEvent) -> Call[TakenEvent]:
    path = f"/v1/events/{_segment(event.user_id)}"
    return Call("POST", path, TakenEvent, body=event.body())


def append_batch(events: Sequence[NewEvent]) -> Call[TakenBatch]:
    bodies = [{"user_id": id_text(event.user_id), **event.body()} for event in events]
    return Call("POST", "/v1/events:batch", TakenBatch, body={"events": bodies})


def offer_items(items: Sequence[NewItem]) -> Call[TakenItems]:
    return Call("POST", "/v1/items", TakenItems, body={"items": [item.body() for item in items]})


def think(user_id: Id, instruction: str | None) -> Call[Accepted]:
    path = f"/v1/users/{_segment(user_id)}/think"
    body = None if instruction is None else {"instruction": instruction}
    return Call("POST", path, Accepted, body=body, is_idempotent=False)


def delete(user_id: Id) -> Call[Accepted]:
    return Call("DELETE", f"/v1/users/{_segment(user_id)}", Accepted)


def _post_query(path: str, model: type[Answer], body: Mapping[str, Any]) -> Call[Answer]:
    """Return a query that is too long for a URL, sent by POST. It changes nothing."""
    return Call("POST", path, model, body=body, may_hedge=True)


def _segment(user_id: Id) -> str:
    """Return the id as a path segment. Raises InvalidArgument."""
    text = id_text(user_id)
    if not text:  # the path would lead elsewhere
        raise InvalidArgument("the user id is empty, expected 1 to 256 bytes")
    encoded = quote(text, safe="")
    # "." and ".." would be resolved as parts of the path
    return encoded.replace(".", "%2E") if encoded in (".", "..") else encoded


def _params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return query parameters: booleans as `true` and `false`; httpx repeats names for lists."""
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in _with_ids(params).items()
    }


def _with_ids(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters, with integer ids to leave out as text."""
    given = dict(params)
    return given | {"exclude": _ids(given["exclude"])} if "exclude" in given else given


def _ids(values: Sequence[Id]) -> list[str]:
    return [id_text(value) for value in values]
