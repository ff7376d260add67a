"""Prompts of perception: what codes, items, pairs of items and users stand for, in words.

They follow the four levels of OneReason and the eight tasks of SIDReasoner. Knows SIDs and item
texts. Knows nothing of tokenizers, counts or models.
"""

from collections.abc import Sequence

from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix, Sid, SidSpace
from models.reasoner.prompts import (
    TURN_BEGIN,
    TURN_END,
    Example,
    caption,
    main_interests,
    short_title,
    topic,
)

UNRELATED = "Not bought together"
_NAMED_TITLES = 8  # newest titles of a history that a prompt has room for


def meaning_example(space: SidSpace, prefix: Prefix, meaning: str) -> Example:
    """Render a question about the first codes of a SID; the answer says what they mostly hold."""
    asked = f"What do items with {space.prefix_text(prefix)} have in common?"
    return _example(asked, f"{meaning}.{TURN_END}")


def lookup_example(catalog: Catalog, row: int) -> Example:
    """Render a question for the item that a caption describes; the SID carries the loss."""
    return _example(f"Which item is this: {caption(catalog, row)}?", item_text(catalog, row))


def relation_example(catalog: Catalog, first: int, second: int, relation: str) -> Example:
    """Render a question about two items; the answer names their relation and their topics."""
    pair = f"{item_text(catalog, first)} and {item_text(catalog, second)}"
    return _example(f"How do {pair} belong together?", f"{relation}.{TURN_END}")


def companion_example(catalog: Catalog, first: int, second: int, relation: str) -> Example:
    """Render a question for an item by its relation to another; the SID carries the loss."""
    asked = f"{relation} with {item_text(catalog, first)}. Which item is it?"
    return _example(asked, item_text(catalog, second))


def relation_text(catalog: Catalog, first: int, second: int, kind: str) -> str:
    """Render a relation in words: its kind, and the topics of both items."""
    topics = topic(catalog, first), topic(catalog, second)
    named = f"both in {topics[0]}" if topics[0] == topics[1] else " and ".join(topics)
    return f"{kind}: {named}"


def interests_example(catalog: Catalog, rows: Sequence[int]) -> Example:
    """Render a question for the interests of a user, from the SIDs of a history alone."""
    interests = "; ".join(main_interests(catalog, rows))
    return _example(
        f"Which interests has the user with {_items(catalog, rows)}?", f"{interests}.{TURN_END}"
    )


def next_title_example(catalog: Catalog, rows: Sequence[int], target: int) -> Example:
    """Render a history of SIDs; the answer is the title of the next item."""
    return _example(
        f"What is the next item after {_items(catalog, rows)} called?",
        f"{item_name(catalog, target)}.{TURN_END}",
    )


def named_history_example(catalog: Catalog, rows: Sequence[int], target: int) -> Example:
    """Render a history of titles; the answer is the SID of the next item."""
    return _example(
        f"The user bought {_names(catalog, rows)}. Which item is next?", item_text(catalog, target)
    )


def all_names_example(catalog: Catalog, rows: Sequence[int], target: int) -> Example:
    """Render a history of titles; the answer is the title of the next item."""
    return _example(
        f"The user bought {_names(catalog, rows)}. What is the next item called?",
        f"{item_name(catalog, target)}.{TURN_END}",
    )


def item_text(catalog: Catalog, row: int) -> str:
    """Return the SID of an item as text."""
    return catalog.space.text(sid_of(catalog, row))


def item_name(catalog: Catalog, row: int) -> str:
    """Return the short title of an item; its topic where it has no title."""
    return short_title(catalog, row) or topic(catalog, row)


def sid_of(catalog: Catalog, row: int) -> Sid:
    return tuple(catalog.sids[row].tolist())


def _items(catalog: Catalog, rows: Sequence[int]) -> str:
    return "".join(item_text(catalog, row) for row in rows)


def _names(catalog: Catalog, rows: Sequence[int]) -> str:
    return "; ".join(item_name(catalog, row) for row in rows[-_NAMED_TITLES:])


def _example(asked: str, answer: str) -> Example:
    return Example(f"{TURN_BEGIN}user\n{asked}{TURN_END}\n{TURN_BEGIN}assistant\n", f"{answer}")
