"""Every prompt and its parser, in one place: training renders what the night asks.

Chat markers are Qwen's. Knows SIDs and item texts; knows nothing of tokenizers or models.
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
ANSWER_BEGIN = " "  # what stands before the item of an answer without a thought
SPECIAL_TOKENS = (PAD, TURN_BEGIN, TURN_END, THINK_BEGIN, THINK_END, ITEM_BEGIN, ITEM_END)

MAX_THOUGHT_TOKENS = 48
RATIONALE_OPENING = "The user's history shows"
PERSONA_ITEMS = 16  # of a persona text: some 500 tokens of nano's
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


def think_completion(space: SidSpace, thought: str, target: Sid) -> str:
    """Thought and target under one loss (Eq. 5); an empty thought recommends at once."""
    return f"{thought}{THINK_END}{space.text(target)}{TURN_END}"


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


def preference_example(space: SidSpace, history: Sequence[Sid], target: Sid) -> Example:
    """Sequential Preference Modeling with the prompt of A.3.1. The loss is on the target's itemic
    tokens alone, so the answer's opening words are context and what would follow is left out."""
    return Example(preference_prompt(space, history), space.text(target))


def preference_prompt(space: SidSpace, history: Sequence[Sid]) -> str:
    """The question of Sequential Preference Modeling: what comes next, without a thought."""
    items = "".join(space.text(sid) for sid in history)
    asked = f"User interaction history: {items}. Predict the next item."
    return f"{_ask(_PREDICT, asked)}The next recommended item is{ANSWER_BEGIN}"


def description_example(space: SidSpace, catalog: Catalog, row: int) -> Example:
    """Itemic Dense Captioning with the prompt of A.3.1; the loss is on the description."""
    sid = tuple(catalog.sids[row].tolist())
    asked = f"Provide a description for the itemic token: {space.text(sid)}."
    return Example(_ask(_DESCRIBE, asked), f"{caption(catalog, row)}.{TURN_END}")


def persona_text(catalog: Catalog, rows: Sequence[int]) -> str:
    """Interleaved User Persona Grounding (A.3.1): what a user bought, each SID beside its words,
    the brands bought most often, and a summary of the interests. Every token carries the loss.

    The paper's static attributes, searches and comments have no counterpart in purchase data.
    """
    asked, summary = persona_example(catalog, rows)
    return asked + summary


def persona_example(catalog: Catalog, rows: Sequence[int]) -> Example:
    """The same text, cut before the interests: the one part that sums up what stands before it."""
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
    """What a persona text and a category chain name of a history: its first topics by rank."""
    return ranked_topics(catalog, rows)[:_NUM_INTERESTS]


def summarised_interests(summary: str) -> tuple[str, ...]:
    """Those that a persona text's summary names."""
    first, _, others = summary.strip().partition(_SECONDARY)
    return (first, *others.split("; ")) if others else (first,)


def rationale_query(catalog: Catalog, relevant: Sequence[int], target: int) -> str:
    """P_r of Eq. 4 with the prompt of A.3.2: why would a user of these items want the target?

    relevant: catalog rows. The answer begins in the middle, after the example's first words.
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
    """A SID beside its title, as in A.3.2; without a title the SID alone."""
    sid = catalog.space.text(tuple(catalog.sids[row].tolist()))
    title = short_title(catalog, row)
    return f"{sid} - {title}" if title else sid


def short_title(catalog: Catalog, row: int) -> str | None:
    """An item's title, cut to what a prompt has room for."""
    title = catalog.titles[row]
    return " ".join(title.split()[:_MAX_TITLE_WORDS]) if title else None


def caption(catalog: Catalog, row: int) -> str:
    """`title, by brand, in topic`, as far as the data has them, a long title cut; never empty."""
    title, brand = short_title(catalog, row), catalog.brands[row]
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


def prefix_topics(catalog: Catalog) -> dict[Prefix, str]:
    """The most frequent topic of the items below each prefix."""
    counts: dict[Prefix, Counter[str]] = {}
    for row, codes in enumerate(catalog.sids[:, : catalog.space.prefix_depth].tolist()):
        counts.setdefault(tuple(codes), Counter())[topic(catalog, row)] += 1
    return {codes: count.most_common(1)[0][0] for codes, count in counts.items()}


def category_rationale(catalog: Catalog, history: Sequence[int], target: int) -> Rationale:
    """The category-based chain of A.1: the history's most frequent topics (the latest first where
    equally frequent), and the target's topic. Never the target's title."""
    return Rationale(main_interests(catalog, history), topic(catalog, target))


def ranked_topics(catalog: Catalog, history: Sequence[int]) -> tuple[str, ...]:
    """A history's topics, most frequent first, the latest first where equally frequent."""
    topics = [topic(catalog, row) for row in history]
    latest = {name: at for at, name in enumerate(topics)}
    counts = Counter(topics)
    return tuple(sorted(counts, key=lambda name: (-counts[name], -latest[name])))


def rationale_text(rationale: Rationale) -> str:
    return f"The user likes {'; '.join(rationale.interests)}. Next: {rationale.next_interest}."


def three_stage_text(catalog: Catalog, history: Sequence[int], target: int) -> str:
    """OneReason's chain: persona abstraction from evidence of the history, interest expansion to
    at most three candidates, transition inference: which is next, and why.

    At the level of topics, recency deciding between equals, as if the answer were unknown.
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
    """Why this interest comes next, from the history alone."""
    if topics[-1] == wanted:
        return "the latest purchase goes on"
    if wanted in topics:
        return f"back to an interest of {topics.count(wanted)} in {len(topics)} purchases"
    return f"something new after {topics[-1]}"


def wish(catalog: Catalog, target: int, *, is_exact: bool) -> str:
    """A user's instruction that asks for the target's category: its leaf, or its topic."""
    path = catalog.categories[target]
    name = path[-1] if is_exact and path else topic(catalog, target)
    return f"I am looking for {_plain(name)}"


def wish_text(catalog: Catalog, history: Sequence[int], target: int) -> str:
    """A thought under an instruction: the interests, and that the wish decides (Fig. 1 and 3)."""
    interests = "; ".join(ranked_topics(catalog, history)[: _NUM_INTERESTS - 1])
    return f"The user likes {interests}. The wish decides. Next: {topic(catalog, target)}."


def next_topic(text: str) -> str | None:
    """The topic that a thought of any template but the free one names as next."""
    match = _NEXT.search(text)
    return match[1] if match else None


def parse_rationale(text: str) -> Rationale | None:
    """Inverse of `rationale_text`; None for a thought of another form."""
    match = _RATIONALE.fullmatch(text.strip())
    return Rationale(tuple(match[1].split("; ")), match[2]) if match else None


def named_interests(text: str) -> tuple[str, ...]:
    """What a thought of any template but the free one says that the user likes."""
    match = _EVIDENCE.match(text.strip())
    return tuple(match[1].split("; ")) if match else ()


def ground(catalog: Catalog, history: Sequence[int], text: str) -> Grounding:
    """Compare what a thought says of the history with its catalog rows; (0, 0) for free text."""
    topics = {topic(catalog, row) for row in history}
    named = set(named_interests(text))
    return Grounding(len(named), len(named & topics))
