"""Every prompt, in one place: training and the night render the same text.

Chat markers are Qwen's. Knows SIDs and item texts. Knows nothing of tokenizers or models.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from models.catalog.catalog import Catalog
from models.catalog.sid import ITEM_BEGIN, ITEM_END, Prefix, Sid, SidSpace

TURN_BEGIN, TURN_END = "<|im_start|>", "<|im_end|>"
THINK_BEGIN, THINK_END = "<think>", "</think>"
PAD = "<|endoftext|>"
ANSWER_BEGIN = " "  # precedes the item in an answer without a thought
SPECIAL_TOKENS = (PAD, TURN_BEGIN, TURN_END, THINK_BEGIN, THINK_END, ITEM_BEGIN, ITEM_END)

MAX_THOUGHT_TOKENS = 48
RATIONALE_OPENING = "The user's history shows"
PERSONA_ITEMS = 16  # items in a persona text: about 500 tokens of the nano tokenizer
_NUM_INTERESTS = 3
_SECONDARY = "\n**Secondary Interests:** "
_MAX_TITLE_WORDS = 12
_PREDICT = (
    "You are a sequential recommendation engine. Your task is to analyze the provided sequence of "
    "user-item interactions and predict the single next item the user is most likely to engage "
    "with."
)
_DESCRIBE = (
    "You are an expert content analyst. Given an itemic token, generate a concise and accurate "
    "textual description of its content."
)
_EXPLAIN = (
    "You are an expert recommendation analyst. Given a user's relevant interaction history, "
    "provide a step-by-step reasoning process explaining why a specific target item aligns with "
    "their preferences."
)
_TOPIC_LEVELS = slice(1, 3)
_RATIONALE = re.compile(r"The user likes (.*)\. Next: (.*)\.", re.DOTALL)
_EVIDENCE = re.compile(
    r"(?:The user likes|Persona: mostly) (.*?)\. (?:Next: |Interests: |The wish decides)", re.DOTALL
)
_NEXT = re.compile(r"\. Next: (.*)\.$", re.DOTALL)


class Example(NamedTuple):
    """A prompt and its completion. Only the completion carries the loss."""

    prompt: str
    completion: str


class Rationale(NamedTuple):
    """The contents of a thought."""

    interests: tuple[str, ...]  # found in the history
    next_interest: str


class Grounding(NamedTuple):
    """Agreement of a thought with the history."""

    named: int  # interests that the thought names
    found: int  # named interests that are topics of the history


def think_prompt(space: SidSpace, history: Sequence[Sid], instruction: str | None = None) -> str:
    """Render the night's question about a history (oldest first).

    The prompt ends inside the thought, so the model continues with the thought.

    Args:
        instruction: the user's own words. They are hostile input: markers are removed.
    """
    items = "".join(space.text(sid) for sid in history)
    wish = f"Wish: {_plain(instruction)}\n" if instruction else ""
    return (
        f"{TURN_BEGIN}user\nHistory: {items}\n{wish}"
        f"Think, then recommend the next item.{TURN_END}\n"
        f"{TURN_BEGIN}assistant\n{THINK_BEGIN}"
    )


def _plain(text: str) -> str:
    """Return text as one line, without the characters of markers."""
    return " ".join(re.sub(r"[<>|]", " ", text).split())


def think_completion(space: SidSpace, thought: str, target: Sid) -> str:
    """Render thought and target, under one loss (Eq. 5). An empty thought recommends at once."""
    return f"{thought}{THINK_END}{space.text(target)}{TURN_END}"


def sequence_text(space: SidSpace, history: Sequence[Sid]) -> str:
    """Render Sequential Preference Modeling: items only; each item is a target of its history."""
    return "".join(space.text(sid) for sid in history)


def caption_example(space: SidSpace, catalog: Catalog, row: int) -> Example:
    """Render Itemic Dense Captioning (A.3.1): a SID, and the item's text as the completion."""
    sid = tuple(catalog.sids[row].tolist())
    prompt = f"{TURN_BEGIN}user\nDescribe {space.text(sid)}{TURN_END}\n{TURN_BEGIN}assistant\n"
    return Example(prompt, f"{caption(catalog, row)}{TURN_END}")


def interleaved_text(space: SidSpace, catalog: Catalog, rows: Sequence[int]) -> str:
    """Render Interleaved User Persona Grounding (A.3.1): each SID of a history beside its topic.

    A thought uses the same words for an item as its topic here.
    """
    lines = []
    for row in rows:
        sid = tuple(catalog.sids[row].tolist())
        lines.append(f"{space.text(sid)} {topic(catalog, row)}")
    return "The user bought\n" + "\n".join(lines) + TURN_END


def preference_example(space: SidSpace, history: Sequence[Sid], target: Sid) -> Example:
    """Render Sequential Preference Modeling with the prompt of A.3.1.

    The loss is on the target's itemic tokens only. So the opening words of the answer belong to
    the prompt, and nothing follows the target.
    """
    return Example(preference_prompt(space, history), space.text(target))


def preference_prompt(space: SidSpace, history: Sequence[Sid]) -> str:
    """Render the question of Sequential Preference Modeling: the next item, without a thought."""
    items = "".join(space.text(sid) for sid in history)
    asked = f"User interaction history: {items}. Predict the next item."
    return f"{_ask(_PREDICT, asked)}The next recommended item is{ANSWER_BEGIN}"


def description_example(space: SidSpace, catalog: Catalog, row: int) -> Example:
    """Render Itemic Dense Captioning with the prompt of A.3.1; the description carries the loss."""
    sid = tuple(catalog.sids[row].tolist())
    asked = f"Provide a description for the itemic token: {space.text(sid)}."
    return Example(_ask(_DESCRIBE, asked), f"{caption(catalog, row)}.{TURN_END}")


def persona_text(catalog: Catalog, rows: Sequence[int]) -> str:
    """Render Interleaved User Persona Grounding (A.3.1). Every token carries the loss.

    The text has the purchases, each SID beside its words, then the brands bought most often, then
    a summary of the interests. The paper's static attributes, searches and comments have no
    counterpart in purchase data.
    """
    asked, summary = persona_example(catalog, rows)
    return asked + summary


def persona_example(catalog: Catalog, rows: Sequence[int]) -> Example:
    """Split a persona text before its summary of interests, which is the completion."""
    bought = "\n".join(f"- {_item(catalog, row)} in {topic(catalog, row)}" for row in rows)
    brands = Counter(name for row in rows if (name := catalog.brands[row]))
    favoured = ", ".join(name for name, _ in brands.most_common(_NUM_INTERESTS))
    parts = [
        f"# Purchase Behavior\nThe user bought\n{bought}",
        f"# Followed Brands\n{favoured}" if favoured else "",
        "# User Summary\n**Primary Interests:**",
    ]
    first, *others = main_interests(catalog, rows)
    secondary = f"{_SECONDARY}{'; '.join(others)}" if others else ""
    return Example("\n".join(part for part in parts if part), f" {first}{secondary}{TURN_END}")


def main_interests(catalog: Catalog, rows: Sequence[int]) -> tuple[str, ...]:
    """Return the first topics of a history by rank, as personas and category chains name them."""
    return ranked_topics(catalog, rows)[:_NUM_INTERESTS]


def summarised_interests(summary: str) -> tuple[str, ...]:
    """Parse the interests in the summary of a persona text."""
    first, _, others = summary.strip().partition(_SECONDARY)
    return (first, *others.split("; ")) if others else (first,)


def rationale_query(catalog: Catalog, relevant: Sequence[int], target: int) -> str:
    """Render P_r of Eq. 4 with the prompt of A.3.2: the reason why a user wants the target.

    The prompt ends after the first words of the answer, and the model continues them.

    Args:
        relevant: catalog rows of the user's relevant history.
    """
    items = "\n".join(_item(catalog, row) for row in relevant)
    asked = (
        f"User's relevant interaction history:\n{items}\n\nTarget item: {_item(catalog, target)}"
        "\n\nExplain why this target item matches the user's interests."
    )
    return f"{_ask(_EXPLAIN, asked)}Reasoning: {RATIONALE_OPENING}"


def _ask(system: str, asked: str) -> str:
    return (
        f"{TURN_BEGIN}system\n{system}{TURN_END}\n"
        f"{TURN_BEGIN}user\n{asked}{TURN_END}\n{TURN_BEGIN}assistant\n"
    )


def _item(catalog: Catalog, row: int) -> str:
    """Render a SID beside its title, as in A.3.2; the SID alone where there is no title."""
    sid = catalog.space.text(tuple(catalog.sids[row].tolist()))
    title = short_title(catalog, row)
    return f"{sid} - {title}" if title else sid


def short_title(catalog: Catalog, row: int) -> str | None:
    """Return an item's title, cut to the words that a prompt has room for."""
    title = catalog.titles[row]
    return " ".join(title.split()[:_MAX_TITLE_WORDS]) if title else None


def caption(catalog: Catalog, row: int) -> str:
    """Render `title, by brand, in topic` from the fields that exist; never empty."""
    title, brand = short_title(catalog, row), catalog.brands[row]
    parts = [title, f"by {brand}" if brand else None, f"in {topic(catalog, row)}"]
    return ", ".join(part for part in parts if part)


def topic(catalog: Catalog, row: int) -> str:
    """Return the interest that an item stands for.

    It is the second and third level of the category path. Two codes tell topics of that depth
    apart: purity .74, against .55 at the leaf (`LOG.md`, 2026-11-22). Without a path it is the
    brand. Without a brand it is the itemic token of the first code.
    """
    path = catalog.categories[row]
    if path:
        return " > ".join(path[_TOPIC_LEVELS] or path)
    return catalog.brands[row] or catalog.space.token(0, int(catalog.sids[row, 0]))


def prefix_topics(catalog: Catalog) -> dict[Prefix, str]:
    """Map each prefix to the most frequent topic of its items."""
    counts: dict[Prefix, Counter[str]] = {}
    for row, codes in enumerate(catalog.sids[:, : catalog.space.prefix_depth].tolist()):
        counts.setdefault(tuple(codes), Counter())[topic(catalog, row)] += 1
    return {codes: count.most_common(1)[0][0] for codes, count in counts.items()}


def category_rationale(catalog: Catalog, history: Sequence[int], target: int) -> Rationale:
    """Make the category-based chain of A.1: the history's main topics, then the target's topic.

    Topics are ordered by frequency, then by recency. The target's title is never used.
    """
    return Rationale(main_interests(catalog, history), topic(catalog, target))


def ranked_topics(catalog: Catalog, history: Sequence[int]) -> tuple[str, ...]:
    """Return a history's topics, most frequent first; equally frequent ones latest first."""
    topics = [topic(catalog, row) for row in history]
    latest = {name: at for at, name in enumerate(topics)}
    counts = Counter(topics)
    return tuple(sorted(counts, key=lambda name: (-counts[name], -latest[name])))


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
    others = [name for name in ranked if name != wanted][: _NUM_INTERESTS - 1]
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


def wish(catalog: Catalog, target: int, *, is_exact: bool) -> str:
    """Render a user's instruction that asks for the target's leaf category or its topic."""
    path = catalog.categories[target]
    name = path[-1] if is_exact and path else topic(catalog, target)
    return f"I am looking for {_plain(name)}"


def wish_text(catalog: Catalog, history: Sequence[int], target: int) -> str:
    """Render a thought under an instruction: the interests, then the wish (Fig. 1 and 3)."""
    interests = "; ".join(ranked_topics(catalog, history)[: _NUM_INTERESTS - 1])
    return f"The user likes {interests}. The wish decides. Next: {topic(catalog, target)}."


def next_topic(text: str) -> str | None:
    """Parse the next topic from a thought of any template; None for free text."""
    match = _NEXT.search(text)
    return match[1] if match else None


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
