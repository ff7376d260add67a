"""Questions to a language model for texts about items, pairs of items and histories.

A question holds all that the model may say something about. It holds no SIDs, which the model
does not know. Knows catalogs; knows nothing of models.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from models.catalog.catalog import Catalog
from models.reasoner.perception_prompts import UNRELATED, item_name
from models.reasoner.prompts import caption
from training.perception.perception_recipes import CorpusRecipe
from training.perception.relations import Relation

Kind = Literal["item", "pair", "history"]
_STORY_ITEMS = 6
_WORD = re.compile(r"[^\W\d_]{4,}")
_TASKS: dict[Kind, str] = {
    "item": "Describe this item and its typical buyer in one or two sentences.",
    "pair": "Say in one or two sentences why the same people buy both items.",
    "history": "Say in one or two sentences what interests this user has.",
}


class CorpusQuestion(NamedTuple):
    """A question, and the subject of its answer."""

    kind: Kind
    at: tuple[int, ...]  # catalog rows of an item or a pair, or the index of a history
    facts: str  # texts of the items
    brands: frozenset[str]  # of the items

    @property
    def task(self) -> str:
        return _TASKS[self.kind]

    @property
    def text(self) -> str:
        return f"{self.facts}\n\n{self.task}"

    @property
    def words(self) -> set[str]:
        """Return the words of the facts, in small letters."""
        return set(_WORD.findall(self.facts.lower()))


def corpus_questions(
    catalog: Catalog,
    pairs: Sequence[Relation],
    histories: Sequence[Sequence[int]],
    recipe: CorpusRecipe,
    *,
    items: Sequence[int],
) -> Iterator[CorpusQuestion]:
    """Yield questions about the most bought items, the first related pairs and histories.

    items: catalog rows with words that may be told.
    """
    told = set(items)
    popular = np.argsort(-catalog.popularity, kind="stable").tolist()
    for row in [row for row in popular if row in told][: recipe.items]:
        yield _question(catalog, "item", (row,), [row])
    related = [pair for pair in pairs if pair.kind != UNRELATED and told >= {*pair[:2]}]
    for pair in related[: recipe.pairs]:
        yield _question(catalog, "pair", pair[:2], pair[:2])
    for at, rows in enumerate(histories[: recipe.histories]):
        if len(rows) > 1:
            yield _question(catalog, "history", (at,), rows[-_STORY_ITEMS:])


def _question(
    catalog: Catalog, kind: Kind, at: tuple[int, ...], rows: Sequence[int]
) -> CorpusQuestion:
    if kind == "history":
        facts = "The user bought: " + "; ".join(item_name(catalog, row) for row in rows)
    else:
        facts = "\n".join(f"Item: {caption(catalog, row)}" for row in rows)
    brands = frozenset(brand for row in rows if (brand := catalog.brands[row]))
    return CorpusQuestion(kind, at, facts, brands)
