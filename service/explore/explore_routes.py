"""Routes of the page `/explore`: its files, and the data that it shows."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response

from models.ids import MAX_ID_BYTES
from models.store.contract import UserStore
from service.api.query_names import StrictRoute
from service.explore.explore_bodies import (
    Clicked,
    Found,
    ItemPage,
    NewClick,
    RankedList,
    Side,
    Status,
    UserPage,
    Wish,
    Wished,
)
from service.explore.explorer import Explorer
from service.explore.page_files import page_router
from service.explore.process_status import StatusReader
from service.explore.same_origin import SameOrigin
from service.serving import Serving

_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_Text = Annotated[str, Query(max_length=MAX_ID_BYTES)]
_Count = Annotated[int, Query(ge=1, le=50)]


def is_of_page(path: str) -> bool:
    """Return True for the page, its files and its data."""
    return path == "/explore" or path.startswith("/explore/")


def explore_router(serving: Serving, store: UserStore, *, has_keys: bool) -> APIRouter:
    """Return all routes of the page; they are in no OpenAPI document.

    Args:
        store: finds users.
        has_keys: callers need an API key, which the page asks for.
    """
    router = APIRouter(include_in_schema=False)
    router.include_router(page_router("/explore"))
    router.include_router(
        _data_router(Explorer(serving, store), StatusReader(serving, store)),
        prefix="/explore/api",
        dependencies=[Depends(SameOrigin(has_keys=has_keys)), Depends(_no_store)],
    )
    return router


async def _no_store(response: Response) -> None:
    response.headers.update(_NO_STORE)


def _data_router(explorer: Explorer, status_reader: StatusReader) -> APIRouter:
    router = APIRouter(route_class=StrictRoute)

    @router.get("/find")
    async def find(text: _Text = "") -> Found:
        return await explorer.find(text)

    @router.get("/user")
    async def user(user_id: _Text, n: _Count = 10) -> UserPage:
        return await explorer.user(user_id, n)

    @router.get("/sides")
    async def sides(user_id: _Text) -> list[Side]:
        return await explorer.sides(user_id)

    @router.get("/list")
    async def ranked(user_id: _Text, side: _Text, n: _Count = 10) -> RankedList:
        return await explorer.ranked(user_id, side, n)

    @router.get("/item")
    async def item(item_id: _Text) -> ItemPage:
        found = explorer.item(item_id)
        if found is None:
            raise HTTPException(404, "the catalog of this release lacks the item")
        return found

    @router.post("/event")
    async def click(body: NewClick) -> Clicked:
        return await explorer.click(body)

    @router.post("/wish")
    async def wish(body: Wish) -> Wished:
        return await explorer.wish(body)

    @router.get("/status")
    async def status() -> Status:
        return await status_reader.read()

    return router
