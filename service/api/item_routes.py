"""Route that puts items into the feed; a learner gives them their place in the catalog."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from models.catalog.fed_items import FedItem
from models.errors import InvalidRecord
from service.api.item_bodies import ItemOffer, ItemResult, OfferedItem, TakenItems
from service.api.params import CurrentServing
from service.api.query_names import StrictRoute
from service.problems import BAD_JSON, NOT_ACCEPTED, STORE_DOWN, TOO_LARGE, problem_responses

router = APIRouter(prefix="/v1", route_class=StrictRoute)


@router.post(
    "/items",
    summary="Offer or withdraw items",
    response_model=TakenItems,
    responses=problem_responses(
        {400: BAD_JSON, 413: TOO_LARGE, 422: NOT_ACCEPTED, 503: STORE_DOWN}
    ),
)
async def offer_items(request: Request, serving: CurrentServing, body: ItemOffer) -> Response:
    """Put items into the feed and return one status per item.

    Needs a running learner, which gives each item its SID. Offering an item again is safe.
    """
    checked = [_check(offered) for offered in body.items]
    await serving.offer_items([each for each in checked if isinstance(each, FedItem)])
    answer = TakenItems(
        request_id=request.state.request_id,
        results=[
            ItemResult(status=202, item_id=each.item_id, known=serving.knows_item(each.item_id))
            if isinstance(each, FedItem)
            else each
            for each in checked
        ],
    )
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def _check(offered: OfferedItem) -> FedItem | ItemResult:
    """Return the item, or the result of one that is rejected."""
    try:
        return FedItem.check(offered.model_dump())
    except InvalidRecord as exc:
        return ItemResult(status=422, item_id=offered.item_id, detail=str(exc))
