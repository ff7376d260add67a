"""Thoughts to learn from in Reasoning Activation, written by a template of the recipe.

A thinker sees the target, as a teacher does. Knows prompts and catalogs; knows nothing of tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.catalog.catalog import Catalog
from models.errors import InvalidSettings
from models.reasoner import prompts, rationales
from training.reasoner_recipes import ThoughtRecipe

Template = Callable[[Catalog, Sequence[int], int], str]


class Thought(NamedTuple):
    """A thought to learn."""

    text: str
    instruction: str | None = None  # the user's wish in words, if any


class Bootstrapped(NamedTuple):
    """A rationale that passed the checks (Eq. 4), or a selected thought."""

    cut: int  # position of its target in the history
    text: str


def category_text(catalog: Catalog, history: Sequence[int], target: int) -> str:
    return rationales.rationale_text(rationales.category_rationale(catalog, history, target))


def no_text(_catalog: Catalog, _history: Sequence[int], _target: int) -> str:
    return ""


TEMPLATES: dict[str, Template] = {
    "category": category_text,
    "bootstrapped": category_text,
    "three-stage": rationales.three_stage_text,
    "selected": no_text,
}


class Thinker:
    """Writes thoughts by a recipe.

    bootstrapped: index of a history -> rationale to use instead of the template. Raises
    InvalidSettings for an unknown template or invalid shares.
    """

    def __init__(
        self,
        recipe: ThoughtRecipe,
        bootstrapped: Mapping[int, Bootstrapped] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if recipe.template not in TEMPLATES:
            raise InvalidSettings(
                f"[thoughts] template = {recipe.template!r}, expected among {sorted(TEMPLATES)}"
            )
        shares = (recipe.wish_share, recipe.silent_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise InvalidSettings(f"[thoughts] shares {shares}, expected a sum of 0 to 1")
        self._recipe = recipe
        self._bootstrapped = bootstrapped or {}
        self._rng = np.random.default_rng(seed)

    def cut(self, history: int) -> int | None:
        """Return the position at which a history must be cut, if it has a rationale for it."""
        known = self._bootstrapped.get(history)
        return known.cut if known else None

    def think(self, catalog: Catalog, before: Sequence[int], target: int, history: int) -> Thought:
        """Write one thought.

        before, target: catalog rows. history: index of their history.
        """
        recipe, drawn = self._recipe, self._rng.random()
        if drawn < recipe.wish_share:
            instruction = prompts.wish(catalog, target, is_exact=drawn < recipe.wish_share / 2)
            return Thought(rationales.wish_text(catalog, before, target), instruction)
        if drawn < recipe.wish_share + recipe.silent_share:
            return Thought("")
        if known := self._bootstrapped.get(history):
            return Thought(known.text)
        return Thought(TEMPLATES[recipe.template](catalog, before, target))
