"""Every prompt and its parser, in one place: training renders what the night asks.

Chat markers are Qwen's. Knows SIDs and item texts; knows nothing of tokenizers or models.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from models.catalog import Catalog
from models.sid import ITEM_BEGIN, ITEM_END, Sid, SidSpace

TURN_BEGIN, TURN_END = "<|im_start|>", "<|im_end|>"
THINK_BEGIN, THINK_END = "<think>", "</think>"
PAD = "<|endoftext|>"
SPECIAL_TOKENS = (PAD, TURN_BEGIN, TURN_END, THINK_BEGIN, THINK_END, ITEM_BEGIN, ITEM_END)

MAX_THOUGHT_TOKENS = 48
_NUM_INTERESTS = 3
_MAX_TITLE_WORDS = 12
_TOPIC_LEVELS = slice(1, 3)
_RATIONALE = re.compile(r"The user likes (.*)\. Next: (.*)\.", re.DOTALL)


class Example(NamedTuple):
    """A prompt, and the completion that alone carries the loss."""

    prompt: str
    completion: str


class Rationale(NamedTuple):
    """What a thought says: interests found in the history, and the one that comes next."""

    interests: tuple[str, ...]
    next_interest: str


class Grounding(NamedTuple):
    """How many interests a thought names, and how many of those are topics of the history."""

    named: int
    found: int


def think_prompt(space: SidSpace, history: Sequence[Sid], instruction: str | None = None) -> str:
    """The night's question about a history (oldest first); the answer starts inside the thought.

    instruction: the user's own words. They are hostile: no marker can be written in them.
    """
    items = "".join(space.text(sid) for sid in history)
    wish = f"Wish: {_plain(instruction)}\n" if instruction else ""
    return (
        f"{TURN_BEGIN}user\nHistory: {items}\n{wish}"
        f"Think, then recommend the next item.{TURN_END}\n"
        f"{TURN_BEGIN}assistant\n{THINK_BEGIN}"
    )


def _plain(text: str) -> str:
    """One line without what markers are made of."""
    return " ".join(re.sub(r"[<>|]", " ", text).split())


def think_completion(space: SidSpace, rationale: Rationale, target: Sid) -> str:
    """Thought and target under one loss (Eq. 5)."""
    return f"{rationale_text(rationale)}{THINK_END}{space.text(target)}{TURN_END}"


def sequence_text(space: SidSpace, history: Sequence[Sid]) -> str:
    """Sequential Preference Modeling: items alone, every one a target of those before it."""
    return "".join(space.text(sid) for sid in history)


def caption_example(space: SidSpace, catalog: Catalog, row: int) -> Example:
    """Itemic Dense Captioning (A.3.1): from a SID to what the data says of the item."""
    sid = tuple(catalog.sids[row].tolist())
    prompt = f"{TURN_BEGIN}user\nDescribe {space.text(sid)}{TURN_END}\n{TURN_BEGIN}assistant\n"
    return Example(prompt, f"{caption(catalog, row)}{TURN_END}")


def interleaved_text(space: SidSpace, catalog: Catalog, rows: Sequence[int]) -> str:
    """Interleaved User Persona Grounding (A.3.1): each SID of a history beside its topic, the words
    in which a thought speaks of it."""
    lines = []
    for row in rows:
        sid = tuple(catalog.sids[row].tolist())
        lines.append(f"{space.text(sid)} {topic(catalog, row)}")
    return "The user bought\n" + "\n".join(lines) + TURN_END


def caption(catalog: Catalog, row: int) -> str:
    """`title, by brand, in topic`, as far as the data has them, a long title cut; never empty."""
    title, brand = catalog.titles[row], catalog.brands[row]
    title = " ".join(title.split()[:_MAX_TITLE_WORDS]) if title else None
    parts = [title, f"by {brand}" if brand else None, f"in {topic(catalog, row)}"]
    return ", ".join(part for part in parts if part)


def topic(catalog: Catalog, row: int) -> str:
    """The interest that an item stands for: the second and third level of its category path, as
    deep as two codes tell apart (purity .74, at the leaf .55: `LOG.md`, 2026-11-22); else its
    brand, else the itemic token of its first code (data without categories)."""
    path = catalog.categories[row]
    if path:
        return " > ".join(path[_TOPIC_LEVELS] or path)
    return catalog.brands[row] or catalog.space.token(0, int(catalog.sids[row, 0]))


def category_rationale(catalog: Catalog, history: Sequence[int], target: int) -> Rationale:
    """The category-based chain of A.1: the history's most frequent topics (the latest first where
    equally frequent), and the target's topic. Never the target's title."""
    topics = [topic(catalog, row) for row in history]
    latest = {name: at for at, name in enumerate(topics)}
    counts = Counter(topics)
    ranked = sorted(counts, key=lambda name: (-counts[name], -latest[name]))
    return Rationale(tuple(ranked[:_NUM_INTERESTS]), topic(catalog, target))


def rationale_text(rationale: Rationale) -> str:
    return f"The user likes {'; '.join(rationale.interests)}. Next: {rationale.next_interest}."


def parse_rationale(text: str) -> Rationale | None:
    """Inverse of `rationale_text`; None for a thought of another form."""
    match = _RATIONALE.fullmatch(text.strip())
    return Rationale(tuple(match[1].split("; ")), match[2]) if match else None


def ground(catalog: Catalog, history: Sequence[int], text: str) -> Grounding:
    """Compare a thought with the catalog rows that it is about; (0, 0) for one of another form."""
    rationale = parse_rationale(text)
    if rationale is None:
        return Grounding(0, 0)
    topics = {topic(catalog, row) for row in history}
    named = set(rationale.interests)
    return Grounding(len(named), len(named & topics))
