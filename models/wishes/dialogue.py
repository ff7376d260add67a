"""The turns of a dialogue to one wish: later turns refine earlier ones.

Knows names and turns. Knows nothing of users or clocks.
"""

from collections.abc import Sequence
from dataclasses import replace

from models.store.wish_turns import WishTurn
from models.wishes.grammar import Turn, read_turn
from models.wishes.names import Name, Names
from models.wishes.wish import Part, Wish

_REFINING = frozenset(["word", "brand"])  # kinds of names that say more of what is wanted already


def understand(turns: Sequence[WishTurn], names: Names) -> Wish:
    """Return the wish after all turns, oldest first. Words that are unknown are the last turn's."""
    wish = Wish()
    for turn in turns:
        wish = _add(wish, read_turn(turn.text, names), _row_of(turn, names), names)
    return wish


def _row_of(turn: WishTurn, names: Names) -> int | None:
    return names.catalog.row(turn.item_id) if turn.item_id is not None else None


def _add(before: Wish, turn: Turn, row: int | None, names: Names) -> Wish:
    if turn.is_over:
        return Wish(is_over=True)
    unnamed: list[str] = []
    wanted, unwanted = list(turn.wanted), list(turn.unwanted)
    if turn.wants_that:
        _name(row, "kind", names, wanted, unnamed)
    if turn.refuses_that == "brand":
        _name(row, "brand", names, unwanted, unnamed)
    elif turn.refuses_that == "kind" and not wanted:
        if before.wanted:
            unwanted += before.wanted
            before = replace(before, wanted=())
        else:
            _name(row, "kind", names, unwanted, unnamed)
    return Wish(
        wanted=_without(_joined(before.wanted, tuple(wanted), turn.adds), unwanted),
        unwanted=tuple(dict.fromkeys((*_without(before.unwanted, wanted), *unwanted))),
        price=turn.price or before.price,
        unknown=turn.unknown,
        unnamed=tuple(unnamed),
        is_understood=bool(wanted or unwanted or turn.price),
    )


def _name(row: int | None, what: str, names: Names, parts: list[Part], unnamed: list[str]) -> None:
    """Add the brand or the kind of the item that the user means by "that"."""
    found = None
    if row is not None:
        found = names.brand_of(row) if what == "brand" else names.category_of(row)
    if found is None:
        unnamed.append(what)
    else:
        parts.append(Part((found,)))


def _joined(before: tuple[Part, ...], new: tuple[Part, ...], adds: bool) -> tuple[Part, ...]:
    """Join old and new wanted parts: a colour or a brand refines, another kind replaces."""
    if not new or not before:
        return new or before
    if adds:
        return tuple(dict.fromkeys((*before, *new)))
    if all(part.kinds <= _REFINING for part in new) and any("category" in p.kinds for p in before):
        more: tuple[Name, ...] = tuple(name for part in new for name in part.names)
        return tuple(part._replace(names=(*part.names, *more)) for part in before)
    return new


def _without(parts: tuple[Part, ...], others: Sequence[Part]) -> tuple[Part, ...]:
    """Return the parts that the others do not name again."""
    named = {part.names for part in others}
    return tuple(part for part in parts if part.names not in named)
