"""Templates of thoughts: rendered for training, parsed to judge a thought.

Knows catalogs and topics. Knows nothing of markers, tokenizers or models.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from models.catalog.catalog import Catalog
from models.reasoner.prompts import NUM_INTERESTS, main_interests, ranked_topics, topic

_RATIONALE = re.compile(r"The user likes (.*)\. Next: (.*)\.", re.DOTALL)
_EVIDENCE = re.compile(
    r"(?:The user likes|Persona: mostly) (.*?)\. (?:Next: |Interests: |The wish decides)", re.DOTALL
)
_NEXT = re.compile(r"\. Next: (.*)\.$", re.DOTALL)


class Rationale(NamedTuple):
    """The contents of a thought."""

    interests: tuple[str, ...]  # found in the history
    next_interest: str


class Grounding(NamedTuple):
    """Agreement of a thought with the history."""

    named: int  # interests that the thought names
    found: int  # named interests that are topics of the history


def category_rationale(catalog: Catalog, history: Sequence[int], target: int) -> Rationale:
    """Make the category-based chain of A.1: the history's main topics, then the target's topic.

    Topics are ordered by frequency, then by recency. The target's title is never used.
    """
    return Rationale(main_interests(catalog, history), topic(catalog, target))


def rationale_text(rationale: Rationale) -> str:
    return f"The user likes {'; '.join(rationale.interests)}. Next: {rationale.next_interest}."


def three_stage_text(catalog: Catalog, history: Sequence[int], target: int) -> str:
    """Render OneReason's three-stage chain at the level of topics.

    The stages are persona abstraction from the history, interest expansion to at most three
    candidates, and transition inference: the next interest and the reason. Ties go to the more
    recent topic, as if the answer were unknown.
    """
    topics = [topic(catalog, row) for row in history]
    ranked, wanted = ranked_topics(catalog, history), topic(catalog, target)
    others = [name for name in ranked if name != wanted][: NUM_INTERESTS - 1]
    kept = {*others, wanted}
    candidates = [name for name in (*ranked, wanted) if name in kept]
    persona = "; ".join(dict.fromkeys((ranked[0], topics[-1])))
    return (
        f"Persona: mostly {persona}. Interests: {'; '.join(dict.fromkeys(candidates))}. "
        f"Transition: {_transition(topics, wanted)}. Next: {wanted}."
    )


def _transition(topics: Sequence[str], wanted: str) -> str:
    """Give the reason for the next interest, from the history alone."""
    if topics[-1] == wanted:
        return "the latest purchase goes on"
    if wanted in topics:
        return f"back to an interest of {topics.count(wanted)} in {len(topics)} purchases"
    return f"something new after {topics[-1]}"


def wish_text(catalog: Catalog, history: Sequence[int], target: int) -> str:
    """Render a thought under an instruction: the interests, then the wish (Fig. 1 and 3)."""
    interests = "; ".join(ranked_topics(catalog, history)[: NUM_INTERESTS - 1])
    return f"The user likes {interests}. The wish decides. Next: {topic(catalog, target)}."


def next_topic(text: str) -> str | None:
    """Parse the next topic from a thought of any template; None for free text."""
    match = _NEXT.search(text)
    return match[1] if match else None


def agreed_topic(catalog: Catalog, row: int, text: str) -> str | None:
    """Return the topic of an item if a thought recommends it; otherwise None.

    A thought of a template names one next topic. Free text has to hold the last level of the
    topic, as words.
    """
    own = topic(catalog, row)
    if (wanted := next_topic(text.strip())) is not None:
        return own if wanted == own else None
    words = re.escape(own.split(" > ")[-1])
    return own if re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) else None


def parse_rationale(text: str) -> Rationale | None:
    """Invert `rationale_text`; None for a thought of another form."""
    match = _RATIONALE.fullmatch(text.strip())
    return Rationale(tuple(match[1].split("; ")), match[2]) if match else None


def named_interests(text: str) -> tuple[str, ...]:
    """Parse the user's interests from a thought of any template; () for free text."""
    match = _EVIDENCE.match(text.strip())
    return tuple(match[1].split("; ")) if match else ()


def ground(catalog: Catalog, history: Sequence[int], text: str) -> Grounding:
    """Compare the interests in a thought with the history's topics; (0, 0) for free text."""
    topics = {topic(catalog, row) for row in history}
    named = set(named_interests(text))
    return Grounding(len(named), len(named & topics))
