"""The sentence that answers a wish: the names that were understood, and their effect."""

from collections.abc import Iterable

from models.wishes.names import Name, Names
from models.wishes.wish import Part, Wish

_MEANT = {
    "brand": "I do not know which brand you mean: send item_id.",
    "kind": "I do not know which item you mean: send item_id.",
}
_ORDER = {"word": 0, "brand": 1, "mood": 2, "category": 3}
_MOST = 6  # names in a list


def answer(wish: Wish, names: Names, *, minutes: int) -> str:
    """Return one to three sentences. Names come from the catalog: escape them before rendering."""
    if wish.is_over:
        return "Your wishes are forgotten; the list is as before."
    said = []
    if not wish.is_empty:
        said.append(f"{_doing(wish, names)}, for {minutes} minutes.")
    if wish.price is not None:
        said.append("No prices in this catalog, so nothing is sorted by price.")
    said += [_MEANT[each] for each in wish.unnamed]
    if wish.unknown:
        said.append(f"Not understood: {_listed(wish.unknown)}.")
    return " ".join(said) or "Not understood; the list stays as it is."


def _doing(wish: Wish, names: Names) -> str:
    doing = []
    if wish.wanted:
        doing.append(f"more {_listed((spoken(part, names) for part in wish.wanted), 'and')}")
    if wish.unwanted:
        doing.append(f"no {_listed((spoken(part, names) for part in wish.unwanted), 'or')}")
    return f"Showing {', '.join(doing)}"


def spoken(part: Part, names: Names) -> str:
    """Return a part as the catalog names it, its kind last: "red Revlon Lipstick"."""
    named = sorted(part.names, key=lambda name: _ORDER[name.kind])
    end = " products" if named[-1].kind == "mood" else ""
    return " ".join(_said(name, names) for name in named) + end


def _said(name: Name, names: Names) -> str:
    if name.kind == "word" and (akin := names.akin(name)) is not None:
        return f"{names.spoken(name)} ({akin[0].label})"
    return names.spoken(name)


def _listed(parts: Iterable[str], last: str = "") -> str:
    kept = list(dict.fromkeys(parts))[:_MOST]
    if len(kept) < 2 or not last:
        return ", ".join(kept)
    return f"{', '.join(kept[:-1])} {last} {kept[-1]}"
