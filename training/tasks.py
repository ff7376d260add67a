"""Texts of every task to token rows with an exact loss mask.

All rows are rendered by `models.prompts`, so that training and the night speak the same words.
"""

# R = rows of a batch, S = tokens, padded on the right

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models import prompts
from models.catalog import Catalog
from models.think import MAX_HISTORY, render_history


class Row(NamedTuple):
    """Token ids, and how many at the front are context without loss."""

    ids: list[int]
    num_context: int


class TokenBatch(NamedTuple):
    """ids (R, S), labels (R, S) with -100 where there is no loss."""

    ids_RS: Tensor
    labels_RS: Tensor


class Tasks:
    """Draws rows of each task from training histories (catalog rows, oldest first)."""

    def __init__(
        self, catalog: Catalog, histories: Sequence[Sequence[int]], tokenizer: Any, seed: int
    ) -> None:
        self._catalog = catalog
        self._histories = [list(history) for history in histories]
        self._tokenizer = tokenizer
        self._rng = np.random.default_rng(seed)

    def sequences(self) -> Iterator[Row]:
        """Sequential Preference Modeling: one window a user, every item a target."""
        for window in self._windows():
            sids = [tuple(sid) for sid in self._catalog.sids[window].tolist()]
            yield self._row("", prompts.sequence_text(self._catalog.space, sids))

    def captions(self) -> Iterator[Row]:
        """Itemic Dense Captioning: every item of the catalog once."""
        for row in self._rng.permutation(len(self._catalog)).tolist():
            yield self._row(*prompts.caption_example(self._catalog.space, self._catalog, row))

    def interleaved(self) -> Iterator[Row]:
        """Interleaved User Persona Grounding: one window a user, every SID beside its topic."""
        for window in self._windows():
            yield self._row(
                "", prompts.interleaved_text(self._catalog.space, self._catalog, window)
            )

    def rationales(self) -> Iterator[Row]:
        """Reasoning from raw histories: a random cut of each user, thought and target under one
        loss with equal weights (Eq. 5)."""
        for history in self._shuffled():
            if len(history) < 2:
                continue
            cut = int(self._rng.integers(1, len(history)))
            target = history[cut]
            before = history[max(0, cut - MAX_HISTORY) : cut]
            rationale = prompts.category_rationale(self._catalog, before, target)
            sid = tuple(self._catalog.sids[target].tolist())
            yield self._row(
                render_history(self._catalog, before),
                prompts.think_completion(self._catalog.space, rationale, sid),
            )

    def _row(self, prompt: str, completion: str) -> Row:
        context = self._tokenizer.encode(prompt, add_special_tokens=False)
        answer = self._tokenizer.encode(completion, add_special_tokens=False)
        return Row(context + answer, len(context))

    def _shuffled(self) -> Iterator[list[int]]:
        for at in self._rng.permutation(len(self._histories)).tolist():
            yield self._histories[at]

    def _windows(self) -> Iterator[list[int]]:
        """At most `MAX_HISTORY` consecutive items of every user."""
        for history in self._shuffled():
            start = int(self._rng.integers(max(1, len(history) - MAX_HISTORY + 1)))
            yield history[start : start + MAX_HISTORY]


def batch_rows(rows: Sequence[Row], max_tokens: int, rng: np.random.Generator) -> list[TokenBatch]:
    """Rows of like length together, at most `max_tokens` with padding a batch, in random order."""
    ordered = sorted(rows, key=lambda row: (len(row.ids), rng.random()))
    groups: list[list[Row]] = [[]]
    for row in ordered:
        if groups[-1] and (len(groups[-1]) + 1) * len(row.ids) > max_tokens:
            groups.append([])
        groups[-1].append(row)
    return [_pad(groups[at]) for at in rng.permutation(len(groups)).tolist() if groups[at]]


def _pad(rows: Sequence[Row]) -> TokenBatch:
    width = max(len(row.ids) for row in rows)
    ids_RS = torch.zeros(len(rows), width, dtype=torch.int64)
    labels_RS = torch.full((len(rows), width), -100)
    for at, (ids, num_context) in enumerate(rows):
        ids_RS[at, : len(ids)] = torch.tensor(ids)
        # The first token of a row has nothing before it to be predicted from.
        first = max(num_context, 1)
        labels_RS[at, first : len(ids)] = ids_RS[at, first : len(ids)]
    return TokenBatch(ids_RS, labels_RS)
