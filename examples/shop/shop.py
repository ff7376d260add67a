"""A web shop's backend: a page with recommendations, and clicks as events of the user."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel

from thinkahead_client import AsyncClient, ClientError, Options

BESTSELLERS = ["B00L5KTZ0K"]  # shown when the service does not answer in time


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    options = Options(api_key=os.environ.get("SHOP_API_KEY"), timeout_s=0.1, hedge_quantile=0.95)
    url = os.environ.get("SHOP_RECOMMENDER", "http://127.0.0.1:8000")
    async with AsyncClient(url, options) as app.state.recommender:
        yield


def recommender_of(request: Request) -> AsyncClient:
    client: AsyncClient = request.app.state.recommender
    return client


app = FastAPI(title="A shop", lifespan=lifespan)
Recommender = Annotated[AsyncClient, Depends(recommender_of)]


class Click(BaseModel):
    item_id: int | str
    type: str = "view"


@app.get("/home/{user_id}")
async def home(user_id: str, recommender: Recommender, n: int = 10) -> dict[str, object]:
    """Show recommended items; without the service a page is still a page."""
    try:
        answer = await recommender.recommend(user_id, n=n)
    except ClientError as exc:
        return {"items": BESTSELLERS, "why": type(exc).__name__}
    return {"items": answer.item_ids, "why": answer.source}


@app.post("/click/{user_id}")
async def click(user_id: str, seen: Click, recommender: Recommender) -> dict[str, bool]:
    """Send a click to the service; the next page knows of it."""
    try:
        return {"stored": (await recommender.append(user_id, **seen.model_dump())).stored}
    except ClientError:
        return {"stored": False}
