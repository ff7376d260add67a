"""Reads a user, an item and this process as the page shows them. Knows nothing of HTTP."""

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence

from models.catalog.catalog import Catalog
from models.store.contract import UserStore
from models.store.events import Event, check_event, check_user_id
from service.explore.explore_bodies import (
    Agreement,
    Clicked,
    Found,
    ItemCard,
    ItemPage,
    ListedItem,
    Neighbour,
    NewClick,
    Night,
    RankedList,
    SeenItem,
    Side,
    UserPage,
    Wish,
    Wished,
)
from service.explore.item_search import ItemSearch
from service.explore.patience import patiently
from service.explore.prefix_tree import prefix_tree
from service.explore.sides import Option, find_side, list_sides, own_side
from service.recommend.ladder import RECORDED
from service.recommend.pipeline import Query, Served
from service.recommend.reasons import sentence
from service.serving import Serving
from service.users.reader import UserView

_MAX_FOUND = 8  # users, and as many items
_MAX_EVENTS = 100  # of a history, the newest
_MAX_NEIGHBOURS = 20


class Explorer:
    """The page's view of one serving process."""

    def __init__(self, serving: Serving, store: UserStore) -> None:
        """store: finds users, which the service's own Redis user need not be able to do."""
        self._serving = serving
        self._store = store
        self._search: ItemSearch | None = None

    async def find(self, text: str) -> Found:
        """Find users and items; without a text, users of the live night and popular items.

        Raises StoreUnavailable.
        """
        current = self._serving.manifest.current
        generation = current.base.generation if current is not None and not text else None
        found = await patiently(
            lambda: self._store.find_users(text, limit=_MAX_FOUND, generation=generation)
        )
        catalog = self._serving.engine.catalog
        rows = await asyncio.to_thread(self._find_items, catalog, text)
        return Found(
            users=list(found.user_ids),
            items=[_card(catalog, catalog.item_ids[row]) for row in rows],
            has_all_users=found.is_complete,
        )

    def _find_items(self, catalog: Catalog, text: str) -> Sequence[int]:
        if not text:
            return self._serving.engine.popular_rows[:_MAX_FOUND]
        if self._search is None or self._search.catalog is not catalog:
            self._search = ItemSearch(catalog)
        return self._search.find(text, _MAX_FOUND)

    async def user(self, user_id: str, num_items: int) -> UserPage:
        """Read a user with the list as it is served. Raises InvalidUserId."""
        check_user_id(user_id)
        serving, option = self._serving, own_side(self._serving, user_id)
        layers = option.choice.layers(serving.manifest.current, user_id)
        view = await serving.users.read(user_id, layers)
        catalog = serving.engine.catalog
        newest = view.history[: -_MAX_EVENTS - 1 : -1]
        arms = serving.pipeline.assign(user_id).exposures
        return UserPage(
            user_id=user_id,
            history=[_seen(catalog, event) for event in newest],
            num_events=len(view.history),
            has_lost_history=view.has_lost_history,
            troubles=[str(each) for each in view.troubles],
            arms=[f"{each.experiment}: {each.arm}" for each in arms],
            night=await self._night(user_id, view),
            ranked=await self._ranked(user_id, option, num_items),
        )

    async def _night(self, user_id: str, view: UserView) -> Night | None:
        if view.record is None:
            return None
        catalog, record = self._serving.engine.catalog, view.record
        texts = await self._serving.users.read_thoughts(user_id, record.generation)
        return Night(
            generation=record.generation,
            created_at=record.created_at,
            thoughts=list(texts or ()),
            tree=prefix_tree(catalog, record.prefixes),
            num_prefixes=len(record.prefixes),
            num_items=sum(len(catalog.rows_below(prefix.codes)) for prefix in record.prefixes),
        )

    async def sides(self, user_id: str) -> list[Side]:
        """Return the sides to compare with. Raises StoreUnavailable."""
        check_user_id(user_id)
        past = await patiently(self._store.past_manifests)
        own = own_side(self._serving, user_id)
        return [option.side for option in (own, *list_sides(self._serving, past))]

    async def ranked(self, user_id: str, side: str, num_items: int) -> RankedList:
        """Return the list of one side. Raises InvalidRecord for an unknown side."""
        check_user_id(user_id)
        past = await patiently(self._store.past_manifests)
        option = find_side(side, self._serving, user_id, past)
        return await self._ranked(user_id, option, num_items)

    async def _ranked(self, user_id: str, option: Option, num_items: int) -> RankedList:
        query = Query(user_id, num_items, explain=True, choice=option.choice)
        return _ranked_list(await self._serving.pipeline.recommend(query), option.side)

    def item(self, item_id: str) -> ItemPage | None:
        """Return an item with its neighbours; None for one that the catalog lacks."""
        engine = self._serving.engine
        catalog, row = engine.catalog, engine.catalog.row(item_id)
        if row is None:
            return None
        neighbours = engine.finisher.neighbours
        near = neighbours.of_row(row) if neighbours is not None else []
        sid = catalog.sids[row].tolist()
        return ItemPage(
            **_card(catalog, item_id).model_dump(),
            brand=catalog.brands[row],
            sid=sid,
            popularity=int(catalog.popularity[row]),
            shares_prefix_with=len(catalog.rows_below(sid[: catalog.space.prefix_depth])) - 1,
            neighbours=[
                Neighbour(**_card(catalog, catalog.item_ids[other]).model_dump(), weight=weight)
                for other, weight in near[:_MAX_NEIGHBOURS]
            ],
        )

    async def click(self, click: NewClick) -> Clicked:
        """Append an event of now. Raises StoreUnavailable."""
        event = Event(click.item_id, int(time.time()), secrets.token_hex(16), click.type or "")
        check_event(event)
        appended = (await self._serving.append({click.user_id: [event]}))[click.user_id][0]
        return Clicked(**appended._asdict())

    async def wish(self, wish: Wish) -> Wished:
        """Take a wish, and have a worker think about the user. Raises StoreUnavailable."""
        heard = await self._serving.hear_wish(
            wish.user_id, wish.instruction, item_id=wish.item_id, forgets=wish.forget_wish
        )
        alive = await self._serving.request_thinking(wish.user_id, wish.instruction or None)
        return Wished(workers_alive=alive, answer=heard.sentence if heard is not None else None)


def _card(catalog: Catalog, item_id: str) -> ItemCard:
    row = catalog.row(item_id)
    if row is None:
        return ItemCard(item_id=item_id, known=False)
    category = " › ".join(catalog.categories[row]) or None
    return ItemCard(item_id=item_id, title=catalog.titles[row], category=category)


def _seen(catalog: Catalog, event: Event) -> SeenItem:
    card = _card(catalog, event.item_id).model_dump()
    return SeenItem(**card, timestamp=event.timestamp, type=event.type, value=event.value)


def _ranked_list(served: Served, side: Side) -> RankedList:
    return RankedList(
        side=side.key,
        label=side.label,
        source=served.source,
        degraded=served.is_degraded,
        release=served.engine.label,
        generation=served.record.generation if served.record is not None else None,
        total_ms=round(1000 * served.seconds["total"], 2),
        items=list(_listed(served)),
    )


def _listed(served: Served) -> Iterator[ListedItem]:
    catalog, record = served.engine.catalog, served.record
    recorded = {prefix.codes: prefix for prefix in record.prefixes} if record is not None else {}
    reasons = served.reasons or (None,) * len(served.picks)
    for rank, (pick, reason) in enumerate(zip(served.picks, reasons, strict=True), start=1):
        sid = catalog.sids[pick.row].tolist()
        parts = reason.parts if reason is not None else None
        thought = reason.thought if reason is not None else None
        prefix = recorded.get(tuple(sid[: catalog.space.prefix_depth]))
        if pick.source not in RECORDED:
            prefix = None
        yield ListedItem(
            **_card(catalog, catalog.item_ids[pick.row]).model_dump(),
            rank=rank,
            source=pick.source,
            sid=sid,
            score=pick.score,
            model=parts.model if parts is not None else None,
            memory=parts.memory if parts is not None else None,
            night=parts.night if parts is not None else None,
            wish=parts.wish if parts is not None else None,
            prefix=prefix.logprob if prefix is not None else None,
            path=prefix.path if prefix is not None else None,
            reason=sentence(reason, catalog) if reason is not None else None,
            agrees=Agreement(**thought._asdict()) if thought is not None else None,
            because=[_card(catalog, catalog.item_ids[row]) for row in pick.because],
        )
