"""Stories: texts around items, pairs and histories, with SIDs among the words.

A local language model may have written them (`corpus.py`). Templates stand in for all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from models.catalog.catalog import Catalog
from models.reasoner.perception_prompts import item_name, item_text
from models.reasoner.prompts import TURN_END, main_interests, topic
from training.perception.relations import Relation


@dataclass(frozen=True)
class Stories:
    """Texts that a language model wrote; empty without one."""

    items: Mapping[int, str] = field(default_factory=dict)  # by catalog row
    pairs: Mapping[tuple[int, int], str] = field(default_factory=dict)  # by catalog rows
    histories: Mapping[int, str] = field(default_factory=dict)  # by index of the history


def item_story(catalog: Catalog, row: int, stories: Stories) -> str:
    """Return a text about an item, beginning with its SID and its name."""
    text = stories.items.get(row) or item_template(catalog, row)
    return f"{_named(catalog, row)}: {text}{TURN_END}"


def pair_story(catalog: Catalog, pair: Relation, stories: Stories) -> str:
    """Return a text about two items that belong together, beginning with both."""
    text = stories.pairs.get((pair.first, pair.second)) or pair_template(catalog, pair)
    names = f"{_named(catalog, pair.first)} and {_named(catalog, pair.second)}"
    return f"{names}: {text}{TURN_END}"


def history_story(catalog: Catalog, history: int, rows: Sequence[int], stories: Stories) -> str:
    """Return a text about a user: the items in order, then their meaning."""
    text = stories.histories.get(history) or history_template(catalog, rows)
    bought = "; then ".join(_named(catalog, row) for row in rows)
    return f"The user bought {bought}. {text}{TURN_END}"


def item_template(catalog: Catalog, row: int) -> str:
    """Render the fields of an item as a sentence."""
    brand, path = catalog.brands[row], catalog.categories[row]
    kind = path[-1] if path else topic(catalog, row)
    maker = f" by {brand}" if brand else ""
    found = f", found in {' > '.join(path[1:-1])}" if len(path) > 2 else ""
    return f"An item of the kind {kind}{maker}{found}."


def pair_template(catalog: Catalog, pair: Relation) -> str:
    """Render the relation of two items as a sentence."""
    first, second = topic(catalog, pair.first), topic(catalog, pair.second)
    if first == second:
        return f"{pair.kind}, as both belong to {first}."
    return f"{pair.kind}, from {first} to {second}."


def history_template(catalog: Catalog, rows: Sequence[int]) -> str:
    """Render the interests of a history and its newest turn as two sentences."""
    first, *others = main_interests(catalog, rows)
    beside = f", beside {' and '.join(others)}" if others else ""
    newest, before = topic(catalog, rows[-1]), {topic(catalog, row) for row in rows[:-1]}
    turn = "goes on with" if newest in before else "turns to"
    return f"Most of it is {first}{beside}. The newest purchase {turn} {newest}."


def _named(catalog: Catalog, row: int) -> str:
    return f"{item_text(catalog, row)} {item_name(catalog, row)}"
