"""Columns by their usual names: which column of a file is the user, the item, the time.

Knows nothing of values. A name is compared without case and punctuation: `User-ID` is `userid`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from models.errors import InvalidDataset

Role = Literal["interactions", "items"]

# Usual names of each field, the best one first.
_USER = (
    *("userid", "user", "uid", "username", "reviewerid", "customerid", "customer", "visitorid"),
    *("memberid", "accountid", "personid", "profileid", "buyerid", "subscriberid", "clientid"),
    *("usersession", "sessionid", "session"),
)
_ITEM = (
    *("itemid", "item", "iid", "productid", "product", "movieid", "movie", "parentasin", "asin"),
    *("sku", "stockcode", "articleid", "article", "contentid", "videoid", "trackid", "songid"),
    *("artistid", "bookid", "isbn", "gameid", "appid", "newsid", "postid", "businessid", "goodsid"),
    *("recipeid", "courseid", "adid"),
)
_TIME = (
    *("timestamp", "unixreviewtime", "unixtime", "time", "ts", "datetime", "date", "eventtime"),
    *("eventtimestamp", "timestampms", "createdat", "created", "occurredat", "clicktime"),
    *("playedat", "orderdate", "purchasedate", "invoicedate", "tdat", "reviewtime"),
)
_EVENTS: dict[str, tuple[str, ...]] = {
    "user_id": _USER,
    "item_id": _ITEM,
    "pos": ("pos",),
    "timestamp": _TIME,
    "event_id": ("eventid",),
    "type": (
        *("type", "eventtype", "feedbacktype", "event", "eventname", "action", "behavior"),
        *("behaviour", "behaviortype", "interactiontype"),
    ),
    "value": ("value", "amount"),
}
_TEXTS: dict[str, tuple[str, ...]] = {
    "title": (
        *("title", "movietitle", "itemname", "productname", "prodname", "itemtitle"),
        *("producttitle", "booktitle", "artistname", "name", "comment"),
    ),
    "brand": ("brand", "brandname", "manufacturer"),
    "categories": (
        *("categories", "category", "genres", "genre", "class", "categorycode"),
        *("categoryname", "producttypename"),
    ),
    "price": ("price",),
    "description": ("description", "detaildesc", "productdescription"),
}
# Names of item texts that also stand beside events; `title` there may be that of a review.
_TEXTS_OF_EVENTS = {
    "title": tuple(name for name in _TEXTS["title"] if name not in ("title", "name", "comment")),
    "brand": _TEXTS["brand"],
    "categories": _TEXTS["categories"],
    "price": (),
    "description": ("productdescription",),
}
_ITEMS = {"item_id": (*_ITEM, "id"), "is_hidden": ("ishidden", "withdrawn"), **_TEXTS}
# Columns of our own data sets that nothing reads; they are no surprise to anybody.
_KNOWN_UNUSED = frozenset({"t_rel", "categories_all", "idgenrec_text_id"})

EVENT_FIELDS = tuple(_EVENTS)
TEXT_FIELDS = tuple(_TEXTS)
FIELDS = (*EVENT_FIELDS, *TEXT_FIELDS, "is_hidden")


class Chosen(NamedTuple):
    """Columns of a file by field."""

    role: Role
    columns: dict[str, str]  # field -> column
    ignored: tuple[str, ...]  # columns that no field takes
    rivals: tuple[str, ...]  # notes on a field that two columns could be


def choose_columns(
    names: Sequence[str], wishes: Mapping[str, str], *, role: Role | None = None
) -> Chosen | None:
    """Choose the columns of a file; None for a file that has neither events nor items.

    Args:
        names: columns of the file.
        wishes: columns by field, from `--map`; fields of other files do no harm.
        role: role of the file, if its name says it.
    """
    events = _match(names, wishes, _EVENTS)
    if role != "items" and {"user_id", "item_id"} <= events.columns.keys():
        texts = _match(_left(names, events), wishes, _TEXTS_OF_EVENTS)
        return _chosen("interactions", names, _Match(events.columns | texts.columns, events.rivals))
    items = _match(names, wishes, _ITEMS)
    if role != "interactions" and "user_id" not in events.columns and "item_id" in items.columns:
        return _chosen("items", names, items)
    if role == "items" and "item_id" in items.columns:
        return _chosen("items", names, items)
    return None


def check_wishes(wishes: Mapping[str, str], names: Sequence[str]) -> None:
    """Check `--map` against the columns of all files. Raises InvalidDataset."""
    for field, column in wishes.items():
        if field not in FIELDS and field != "item_id":
            raise InvalidDataset(f"--map {field}={column}: expected a field of {', '.join(FIELDS)}")
        if column and column not in names:
            shown = ", ".join(dict.fromkeys(names))
            raise InvalidDataset(f"--map {field}={column}: no such column, expected one of {shown}")


def is_usual(name: str) -> bool:
    """Return True for a usual name of any field."""
    plain = _plain(name)
    return any(plain in names for names in (*_EVENTS.values(), *_ITEMS.values()))


class _Match(NamedTuple):
    columns: dict[str, str]
    rivals: tuple[str, ...]


def _match(
    names: Sequence[str], wishes: Mapping[str, str], usual: Mapping[str, Sequence[str]]
) -> _Match:
    wished = {field: wishes[field] for field in usual if wishes.get(field, "") in {*names} - {""}}
    free = {_plain(name): name for name in reversed(names) if name not in wished.values()}
    columns, rivals = dict(wished), []
    for field, candidates in usual.items():
        if field in wishes:
            continue
        found = [free[plain] for plain in candidates if plain in free]
        found = [field] if field in found else found
        if found:
            columns[field] = found[0]
            rivals += [f"{field} is {found[0]!r}, not {name!r}" for name in found[1:]]
    return _Match({field: columns[field] for field in usual if field in columns}, tuple(rivals))


def _left(names: Sequence[str], match: _Match) -> list[str]:
    return [name for name in names if name not in match.columns.values()]


def _chosen(role: Role, names: Sequence[str], match: _Match) -> Chosen:
    ignored = [name for name in _left(names, match) if name not in _KNOWN_UNUSED]
    return Chosen(role, match.columns, tuple(ignored), match.rivals)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
