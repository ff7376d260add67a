"""Questions to a reasoner about items and users, with reference answers and guesses.

The prompts are the ones of the reasoner's training recipe. Knows nothing of models or scores.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.quality.ranking.prefix_map import another_user
from models.catalog.catalog import Catalog
from models.reasoner import prompts, rationales
from models.reasoner.think import MAX_HISTORY, render_history

RANDOM = "random"
_MARKER = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True)
class Exam:
    """Questions of one kind."""

    name: str
    asked: Sequence[str]  # prompts
    references: Sequence[str]  # one per prompt
    closing: str  # token that ends an answer
    form: Callable[[str], str]  # an answer's words -> the text that is compared
    guesses: Mapping[str, Sequence[str]]  # answers made without the prompt, by name; has RANDOM

    def read(self, answer: str) -> str:
        """Return the compared text of an answer: empty if it has only itemic tokens, no words."""
        return self.form(_MARKER.sub(" ", answer).strip())


def make_exams(
    catalog: Catalog,
    recipe: Mapping[str, Any],
    rows: Sequence[int],
    histories: Sequence[Sequence[int]],
    *,
    seed: int,
) -> list[Exam]:
    """Return the exams for a reasoner of this recipe.

    All reasoners get questions about items and about interests of users. Reasoners trained on
    personas also get questions about personas.
    """
    has_personas = knows_personas(recipe)
    exams = [
        item_exam(catalog, rows, has_descriptions=has_personas, seed=seed),
        thought_exam(catalog, histories, seed=seed),
    ]
    return [*exams, persona_exam(catalog, histories, seed=seed)] if has_personas else exams


def knows_personas(recipe: Mapping[str, Any]) -> bool:
    """Tell if the recipe has the four tasks of alignment (`integrate`, prompts of A.3.1).

    The other kind of alignment, `align`, has fewer words.
    """
    return "integrate" in recipe.get("reasoner", {}).get("stages", ())


def item_exam(catalog: Catalog, rows: Sequence[int], *, has_descriptions: bool, seed: int) -> Exam:
    """Make the exam of item understanding: from an item's tokens to its caption."""
    ask = prompts.description_example if has_descriptions else prompts.caption_example
    return Exam(
        name="item",
        asked=[ask(catalog.space, catalog, row).prompt for row in rows],
        references=[prompts.caption(catalog, row) for row in rows],
        closing=prompts.TURN_END,
        form=lambda answer: answer.removesuffix("."),
        guesses=_item_guesses(catalog, rows, seed=seed),
    )


def _item_guesses(catalog: Catalog, rows: Sequence[int], *, seed: int) -> dict[str, list[str]]:
    """Return captions of a random item, an item with the same prefix, and the most bought item.

    Without another item of the same prefix, the random item takes its place.
    """
    rng = np.random.default_rng(seed)
    random = [int((row + rng.integers(1, len(catalog))) % len(catalog)) for row in rows]
    depth = catalog.space.prefix_depth
    near = []
    for row, other in zip(rows, random, strict=True):
        is_near_N = (catalog.sids[:, :depth] == catalog.sids[row, :depth]).all(axis=1)
        is_near_N[row] = False
        found = np.flatnonzero(is_near_N)
        near.append(int(rng.choice(found)) if len(found) else other)
    top = int(catalog.popularity.argmax())
    chosen = {RANDOM: random, "same_prefix": near, "most_bought": [top] * len(rows)}
    return {
        name: [prompts.caption(catalog, row) for row in others] for name, others in chosen.items()
    }


def thought_exam(catalog: Catalog, histories: Sequence[Sequence[int]], *, seed: int) -> Exam:
    """Make the exam of user understanding: from a history's tokens to the user's interests.

    The interests are those named in a greedy thought. A thought of free words is compared as it is.
    """
    return Exam(
        name="user",
        asked=[render_history(catalog, rows[-MAX_HISTORY:]) for rows in histories],
        references=_interests(catalog, histories),
        closing=prompts.THINK_END,
        form=lambda answer: "; ".join(rationales.named_interests(answer)) or answer,
        guesses=_user_guesses(catalog, histories, seed=seed),
    )


def persona_exam(catalog: Catalog, histories: Sequence[Sequence[int]], *, seed: int) -> Exam:
    """Make the exam of personas: from items with their words to a summary of the interests."""
    windows = [rows[-prompts.PERSONA_ITEMS :] for rows in histories]
    return Exam(
        name="persona",
        asked=[prompts.persona_example(catalog, rows).prompt for rows in windows],
        references=_interests(catalog, windows),
        closing=prompts.TURN_END,
        form=lambda answer: "; ".join(prompts.summarised_interests(answer)),
        guesses=_user_guesses(catalog, windows, seed=seed),
    )


def _interests(catalog: Catalog, histories: Sequence[Sequence[int]]) -> list[str]:
    return ["; ".join(prompts.main_interests(catalog, rows)) for rows in histories]


def _user_guesses(
    catalog: Catalog, histories: Sequence[Sequence[int]], *, seed: int
) -> dict[str, list[str]]:
    """Return the interests of a random other user, and the interests from all purchases."""
    own = _interests(catalog, histories)
    everything = np.repeat(np.arange(len(catalog)), catalog.popularity).tolist()
    popular = "; ".join(prompts.main_interests(catalog, everything))
    others = [own[at] for at in another_user(len(own), seed=seed)]
    return {RANDOM: others, "most_bought": [popular] * len(own)}
