"""Token rows of every training task, with an exact loss mask.

`models.reasoner.prompts` renders all texts, so that training and the night use the same words.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.catalog.catalog import Catalog
from models.catalog.sid import Sid
from models.intake.users_table import Attributes
from models.night.evidence import Evidence
from models.reasoner import prompts
from models.reasoner.think import MAX_HISTORY, render_history
from training.batching import Encoder, Row
from training.general import general_texts
from training.rationale_writers import Thinker
from training.reasoner_recipes import ThoughtRecipe


class Tasks:
    """Draws rows of each task from training histories, which are catalog rows, oldest first."""

    def __init__(
        self,
        catalog: Catalog,
        histories: Sequence[Sequence[int]],
        tokenizer: Any,
        seed: int,
        *,
        firsts: Sequence[int] | None = None,
        items: Sequence[int] | None = None,
        most: int = MAX_HISTORY,
        attributes: Sequence[Attributes] | None = None,
        evidence: Evidence | None = None,
        evidence_share: float = 1.0,
    ) -> None:
        """Args:
        firsts: of each history, the position of the first event to learn; those before it are
            context. By default all events are learnt.
        items: catalog rows to describe; by default all.
        most: newest items of a history that the reasoner reads.
        attributes: of the user of each history, for personas and prompts; None without any.
        evidence: to cite in prompts, over counts of the events before `firsts`, or of all events
            where that is 0. evidence_share: of the prompts that cite it.
        """
        self._evidence, self._evidence_share = evidence, evidence_share
        self._attributes = attributes
        self._most = most
        self._catalog = catalog
        self._histories = [list(history) for history in histories]
        self._firsts = list(firsts) if firsts is not None else [0] * len(self._histories)
        self._items = np.arange(len(catalog)) if items is None else np.array(items, dtype=np.int64)
        self._encoder = Encoder(tokenizer)
        self._rng = np.random.default_rng(seed)

    def sequences(self, *, item_dropout: float = 0.0) -> Iterator[Row]:
        """Yield item sequences: one window per user, in which each item is predicted.

        item_dropout: probability of leaving an item out, as long as two items remain.
        """
        space = self._catalog.space
        for at, window, num_context in self._windows():
            if item_dropout and not num_context:
                window = self._thin(window, item_dropout)
            sids = self._sids(window)
            context, learnt = sids[:num_context], sids[num_context:]
            yield self._row(
                prompts.sequence_text(space, context), prompts.sequence_text(space, learnt), at
            )

    def captions(self) -> Iterator[Row]:
        """Yield every item once, in few words around its caption."""
        for row in self._rng.permutation(self._items).tolist():
            yield self._row(*prompts.caption_example(self._catalog.space, self._catalog, row))

    def interleaved(self) -> Iterator[Row]:
        """Yield one window per user, with the topic beside every SID."""
        for at, window, _ in self._windows():
            text = prompts.interleaved_text(self._catalog.space, self._catalog, window)
            yield self._row("", text, at)

    def personas(self) -> Iterator[Row]:
        """Interleaved User Persona Grounding (A.3.1): yield each history in consecutive windows."""
        for at in self._order():
            history = self._histories[at]
            attributes = self._attributes_of(at)
            size = prompts.PERSONA_ITEMS
            for start in range(self._firsts[at] // size * size, len(history), size):
                window = history[start : start + size]
                yield self._row("", prompts.persona_text(self._catalog, window, attributes), at)

    def preferences(self) -> Iterator[Row]:
        """Sequential Preference Modeling (A.3.1).

        Each learnt item but the first of every history is the target once, after the window of as
        many items before it that the reasoner reads.
        """
        cuts = [
            (at, cut)
            for at, rows in enumerate(self._histories)
            for cut in range(max(1, self._firsts[at]), len(rows))
        ]
        for index in self._rng.permutation(len(cuts)).tolist():
            at, cut = cuts[index]
            before = self._histories[at][max(0, cut - self._most) : cut]
            *history, target = self._sids([*before, self._histories[at][cut]])
            example = prompts.preference_example(self._catalog.space, history, target)
            yield self._row(*example, at)

    def descriptions(self) -> Iterator[Row]:
        """Itemic Dense Captioning (A.3.1): yield every item once."""
        for row in self._rng.permutation(self._items).tolist():
            yield self._row(*prompts.description_example(self._catalog.space, self._catalog, row))

    def general(self) -> Iterator[Row]:
        """General Language Modeling (A.3.1): yield the general corpus once."""
        texts = list(general_texts())
        for at in self._rng.permutation(len(texts)).tolist():
            yield self._row("", texts[at])

    def rationales(self, thinker: Thinker | None = None) -> Iterator[Row]:
        """Reasoning from raw histories: yield one cut of each user's history (Eq. 5).

        Thought and target have equal weights in one loss. The cut is random in each pass, unless
        the thinker has a rationale for a fixed one.
        """
        thinker = thinker or Thinker(ThoughtRecipe())
        for at in self._order():
            history = self._histories[at]
            first = max(1, self._firsts[at])
            if len(history) <= first:
                continue
            cut = thinker.cut(at) or int(self._rng.integers(first, len(history)))
            before = history[max(0, cut - self._most) : cut]
            thought = thinker.think(self._catalog, before, history[cut], at)
            (sid,) = self._sids([history[cut]])
            cited = self._cite(at, before)
            yield self._row(
                render_history(
                    self._catalog,
                    before,
                    thought.instruction,
                    cited,
                    attributes=self._attributes_of(at).items(),
                ),
                prompts.think_completion(self._catalog.space, thought.text, sid),
                at,
            )

    def _cite(self, at: int, before: Sequence[int]) -> list[prompts.Cited]:
        """Return the evidence of a prompt, without what the history itself adds to the counts."""
        if self._evidence is None or self._rng.random() >= self._evidence_share:
            return []
        counted = self._histories[at][: self._firsts[at] or None]
        return self._evidence.cite(before, counted)

    def _attributes_of(self, at: int) -> Attributes:
        return self._attributes[at] if self._attributes is not None else {}

    def _row(self, prompt: str, completion: str, history: int | None = None) -> Row:
        context = self._encoder.encode(prompt)
        return Row(context + self._encoder.encode(completion), len(context), history)

    def _sids(self, rows: Sequence[int]) -> list[Sid]:
        return [tuple(sid) for sid in self._catalog.sids[list(rows)].tolist()]

    def _order(self) -> list[int]:
        """Return the indices of all histories in random order."""
        order: list[int] = self._rng.permutation(len(self._histories)).tolist()
        return order

    def _thin(self, window: list[int], item_dropout: float) -> list[int]:
        kept = [row for row in window if self._rng.random() >= item_dropout]
        return kept if len(kept) > 1 else window

    def _windows(self) -> Iterator["_Window"]:
        """Yield a random window of every history; the last one, if its front is context."""
        for at in self._order():
            history, first = self._histories[at], self._firsts[at]
            last = max(0, len(history) - self._most)
            start = last if first else int(self._rng.integers(last + 1))
            yield _Window(at, history[start : start + self._most], max(0, first - start))


class _Window(NamedTuple):
    """Consecutive items of a history, as many as the reasoner reads."""

    history: int  # its index
    rows: list[int]
    num_context: int  # items at the front that are not learnt
