"""Token rows of the perception tasks: codes, items, pairs and users, in both directions."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from models.catalog.catalog import Catalog
from models.reasoner import perception_prompts as asked
from models.reasoner.prompts import Example
from models.reasoner.think import MAX_HISTORY
from training.batching import Encoder, Row
from training.perception.meanings import prefix_meanings
from training.perception.relations import Relation, find_relations
from training.perception.stories import Stories, history_story, item_story, pair_story

_STORY_ITEMS = 6  # newest items of a history that its story tells


class PerceptionTasks:
    """Draws rows of each task from training histories, which are catalog rows, oldest first."""

    def __init__(
        self,
        catalog: Catalog,
        histories: Sequence[Sequence[int]],
        tokenizer: Any,
        seed: int,
        *,
        items: Sequence[int] | None = None,
        most: int = MAX_HISTORY,
        stories: Stories | None = None,
    ) -> None:
        """Args:
        items: catalog rows with words to learn; by default all.
        most: newest items of a history that the reasoner reads.
        stories: texts of a language model; by default templates stand in for all.
        """
        self._catalog, self._most = catalog, most
        self._histories = [list(history) for history in histories]
        self._items = np.arange(len(catalog)) if items is None else np.array(items, dtype=np.int64)
        self._stories = stories or Stories()
        self._encoder = Encoder(tokenizer)
        self._rng = np.random.default_rng([seed, 1])

    def meanings(self) -> Iterator[Row]:
        """Yield each first code and each prefix once, with the meaning of its items."""
        known = sorted(self._meanings.items())
        for at in self._rng.permutation(len(known)).tolist():
            yield self._row(asked.meaning_example(self._catalog.space, *known[at]))

    def lookups(self) -> Iterator[Row]:
        """Yield every item once: from its words to its SID."""
        for row in self._rng.permutation(self._items).tolist():
            yield self._row(asked.lookup_example(self._catalog, row))

    def relations(self) -> Iterator[Row]:
        """Yield every pair once: from two items to their relation."""
        for pair in self._shuffled(self._pairs):
            words = asked.relation_text(self._catalog, *pair)
            yield self._row(asked.relation_example(self._catalog, *pair[:2], words))

    def companions(self) -> Iterator[Row]:
        """Yield every pair that belongs together: from one item and the relation to the other."""
        for pair in self._shuffled(self._related):
            words = asked.relation_text(self._catalog, *pair)
            yield self._row(asked.companion_example(self._catalog, *pair[:2], words))

    def interests(self) -> Iterator[Row]:
        """Yield every history once: from its SIDs to the interests of the user."""
        for at in self._order():
            rows = self._histories[at][-self._most :]
            yield self._row(asked.interests_example(self._catalog, rows), at)

    def next_titles(self) -> Iterator[Row]:
        """Yield one cut of every history: from SIDs to the title of the next item."""
        for at, before, target in self._cuts():
            yield self._row(asked.next_title_example(self._catalog, before, target), at)

    def named_histories(self) -> Iterator[Row]:
        """Yield one cut of every history: from titles to the SID of the next item."""
        for at, before, target in self._cuts():
            yield self._row(asked.named_history_example(self._catalog, before, target), at)

    def all_names(self) -> Iterator[Row]:
        """Yield one cut of every history: from titles to the title of the next item."""
        for at, before, target in self._cuts():
            yield self._row(asked.all_names_example(self._catalog, before, target), at)

    def item_stories(self) -> Iterator[Row]:
        """Yield a text about every item, and about as many pairs; the loss is on every token."""
        pairs = self._shuffled(self._related)
        for row in self._rng.permutation(self._items).tolist():
            yield self._text(item_story(self._catalog, row, self._stories))
            if (pair := next(pairs, None)) is not None:
                yield self._text(pair_story(self._catalog, pair, self._stories))

    def history_stories(self) -> Iterator[Row]:
        """Yield a text about every user; the loss is on every token."""
        for at in self._order():
            rows = self._histories[at][-_STORY_ITEMS:]
            yield self._text(history_story(self._catalog, at, rows, self._stories), at)

    @cached_property
    def _meanings(self) -> dict[tuple[int, ...], str]:
        return prefix_meanings(self._catalog)

    @cached_property
    def _pairs(self) -> list[Relation]:
        return find_relations(self._histories, self._rng, num_items=len(self._catalog))

    @cached_property
    def _related(self) -> list[Relation]:
        return [pair for pair in self._pairs if pair.kind != asked.UNRELATED]

    def _shuffled(self, pairs: Sequence[Relation]) -> Iterator[Relation]:
        for at in self._rng.permutation(len(pairs)).tolist():
            yield pairs[at]

    def _order(self) -> list[int]:
        """Return the indices of all histories in random order."""
        order: list[int] = self._rng.permutation(len(self._histories)).tolist()
        return order

    def _cuts(self) -> Iterator[tuple[int, list[int], int]]:
        """Yield every history of two items or more, cut at random: its index, items, target."""
        for at in self._order():
            history = self._histories[at]
            if len(history) > 1:
                cut = int(self._rng.integers(1, len(history)))
                yield at, history[max(0, cut - self._most) : cut], history[cut]

    def _row(self, example: Example, history: int | None = None) -> Row:
        context = self._encoder.encode(example.prompt)
        return Row(context + self._encoder.encode(example.completion), len(context), history)

    def _text(self, text: str, history: int | None = None) -> Row:
        return Row(self._encoder.encode(text), 0, history)
