"""Every prompt, in one place: training and the night render the same text.

Chat markers are Qwen's. Knows SIDs and item texts. Knows nothing of tokenizers or models.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
NUM_INTERESTS = 3
_SECONDARY = "\n**Secondary Interests:** "
_MAX_TITLE_WORDS = 12
_MAX_ATTRIBUTES, _MAX_ATTRIBUTE_WORDS = 16, 8  # of a user
_MAX_DESCRIPTION_WORDS = 24
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


class Cited(NamedTuple):
    """A prefix that others went on to from the items of a history."""

    codes: Prefix
    times: int  # number of pairs, near ones full and far ones less; at least 1


class Example(NamedTuple):
    """A prompt and its completion. Only the completion carries the loss."""

    prompt: str
    completion: str


def think_prompt(
    space: SidSpace,
    history: Sequence[Sid],
    instruction: str | None = None,
    evidence: Sequence[Cited] = (),
    *,
    attributes: Iterable[tuple[str, str]] = (),
) -> str:
    """Render the night's question about a history (oldest first).

    The prompt ends inside the thought, so the model continues with the thought.

    Args:
        instruction: the user's own words. They are hostile input: markers are removed.
        evidence: prefixes that others went on to, most first; without any the prompt has no line
            of them.
        attributes: of the user, as hostile; without any the prompt has no line of them.
    """
    items = "".join(space.text(sid) for sid in history)
    about = "; ".join(f"{name}: {text}" for name, text in _short_attributes(attributes))
    user = f"User: {about}\n" if about else ""
    wish = f"Wish: {_plain(instruction)}\n" if instruction else ""
    return (
        f"{TURN_BEGIN}user\n{user}History: {items}\n{evidence_line(space, evidence)}{wish}"
        f"Think, then recommend the next item.{TURN_END}\n"
        f"{TURN_BEGIN}assistant\n{THINK_BEGIN}"
    )


def evidence_line(space: SidSpace, evidence: Sequence[Cited]) -> str:
    """Render the prefixes that others went on to, with counts; "" without any."""
    cited = " ".join(f"{space.prefix_text(codes)} {times}" for codes, times in evidence)
    return f"Others bought: {cited}\n" if cited else ""


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


def persona_text(
    catalog: Catalog, rows: Sequence[int], attributes: Mapping[str, str] | None = None
) -> str:
    """Render Interleaved User Persona Grounding (A.3.1). Every token carries the loss.

    The text has the static attributes of the user, where they are known, the purchases, each SID
    beside its words, then the brands bought most often, then a summary of the interests. The
    paper's searches and comments have no counterpart in purchase data.
    """
    asked, summary = persona_example(catalog, rows, attributes)
    return asked + summary


def persona_example(
    catalog: Catalog, rows: Sequence[int], attributes: Mapping[str, str] | None = None
) -> Example:
    """Split a persona text before its summary of interests, which is the completion."""
    bought = "\n".join(f"- {_item(catalog, row)} in {topic(catalog, row)}" for row in rows)
    brands = Counter(name for row in rows if (name := catalog.brands[row]))
    favoured = ", ".join(name for name, _ in brands.most_common(NUM_INTERESTS))
    parts = [
        _static_attributes(attributes or {}),
        f"# Purchase Behavior\nThe user bought\n{bought}",
        f"# Followed Brands\n{favoured}" if favoured else "",
        "# User Summary\n**Primary Interests:**",
    ]
    first, *others = main_interests(catalog, rows)
    secondary = f"{_SECONDARY}{'; '.join(others)}" if others else ""
    return Example("\n".join(part for part in parts if part), f" {first}{secondary}{TURN_END}")


def _static_attributes(attributes: Mapping[str, str]) -> str:
    """Render attributes of a user, which are hostile text; "" without any."""
    lines = [f"- {name}: {text}" for name, text in _short_attributes(attributes.items())]
    return "\n".join(["# Static Attributes", *lines]) if lines else ""


def _short_attributes(attributes: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return plain names and the first words of plain texts, by name."""
    return [
        (_plain(name), " ".join(_plain(text).split()[:_MAX_ATTRIBUTE_WORDS]))
        for name, text in sorted(attributes)[:_MAX_ATTRIBUTES]
    ]


def main_interests(catalog: Catalog, rows: Sequence[int]) -> tuple[str, ...]:
    """Return the first topics of a history by rank, as personas and category chains name them."""
    return ranked_topics(catalog, rows)[:NUM_INTERESTS]


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
    """Render `title, by brand, in topic: description` from the fields that exist; never empty."""
    title, brand = short_title(catalog, row), catalog.brands[row]
    parts = [title, f"by {brand}" if brand else None, f"in {topic(catalog, row)}"]
    named = ", ".join(part for part in parts if part)
    description = _short_description(catalog, row)
    return f"{named}: {description}" if description else named


def _short_description(catalog: Catalog, row: int) -> str:
    """Return the first words of an item's description; "" without one."""
    text = catalog.descriptions[row] if catalog.descriptions else None
    return " ".join(_plain(text).split()[:_MAX_DESCRIPTION_WORDS]) if text else ""


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


def ranked_topics(catalog: Catalog, history: Sequence[int]) -> tuple[str, ...]:
    """Return a history's topics, most frequent first; equally frequent ones latest first."""
    topics = [topic(catalog, row) for row in history]
    latest = {name: at for at, name in enumerate(topics)}
    counts = Counter(topics)
    return tuple(sorted(counts, key=lambda name: (-counts[name], -latest[name])))


def wish(catalog: Catalog, target: int, *, is_exact: bool) -> str:
    """Render a user's instruction that asks for the target's leaf category or its topic."""
    path = catalog.categories[target]
    return wish_for(path[-1] if is_exact and path else topic(catalog, target))


def wish_for(name: str) -> str:
    """Render the instruction that asks for a category or a topic."""
    return f"I am looking for {_plain(name)}"
