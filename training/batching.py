"""Text to token ids, and rows of token ids to batches.

An encoder is many times faster than its tokenizer where texts share their words. Batches are padded
(one row a sequence) or packed: many rows in one sequence, none of which sees another. Positions
count anew in each row; transformers reads the borders from them (`masking_utils`,
`find_packed_sequence_indices`, 5.19) as long as it is given no attention mask.

Knows tokenizers; knows nothing of tasks, items or users.
"""

# R = sequences of a batch, S = tokens of the longest (padded) or of each (packed)

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.errors import InvalidSettings, ReleaseMismatch

_MARKER = re.compile(r"(<[^<>\s]+>)")
_SAMPLE = "Next: <item_a_0> - a Sample of <b>words</b>, in <|item_begin|><item_a_0><|item_end|>.\n"
_OPEN = 32  # sequences that may still take a row


class Row(NamedTuple):
    """Token ids, how many at the front are context without loss, and whose history it tells."""

    ids: list[int]
    num_context: int
    history: int | None = None


class TokenBatch(NamedTuple):
    """ids (R, S), labels (R, S) with -100 where there is no loss.

    positions_RS: counted anew in each row of a packed sequence; None for one row a sequence.
    """

    ids_RS: Tensor
    labels_RS: Tensor
    positions_RS: Tensor | None = None


class Encoder:
    """A tokenizer cuts text at its added tokens and encodes what lies between on its own, so the
    pieces can be kept: 260 us for a prompt of 76 tokens become 12.

    Raises ReleaseMismatch for a tokenizer that does not work that way.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._markers: dict[str, int] = tokenizer.get_added_vocab()
        self._pieces: dict[str, list[int]] = {}
        if self.encode(_SAMPLE) != tokenizer.encode(_SAMPLE, add_special_tokens=False):
            raise ReleaseMismatch(
                f"{tokenizer.name_or_path}: text beside an added token is encoded unlike text alone"
            )

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        plain = ""
        for piece in _MARKER.split(text):
            marker = self._markers.get(piece)
            if marker is None:
                plain += piece
                continue
            ids += self._encode_plain(plain)
            ids.append(marker)
            plain = ""
        return ids + self._encode_plain(plain)

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        known = self._pieces.get(text)
        if known is None:
            known = self._tokenizer.encode(text, add_special_tokens=False)
            self._pieces[text] = known
        return known


def batch_rows(rows: Sequence[Row], max_tokens: int, rng: np.random.Generator) -> list[TokenBatch]:
    """Rows of like length together, at most `max_tokens` with padding a batch, in random order."""
    ordered = sorted(rows, key=lambda row: (len(row.ids), rng.random()))
    groups: list[list[Row]] = [[]]
    for row in ordered:
        if groups[-1] and (len(groups[-1]) + 1) * len(row.ids) > max_tokens:
            groups.append([])
        groups[-1].append(row)
    return [pad_rows(groups[at]) for at in rng.permutation(len(groups)).tolist() if groups[at]]


def pad_rows(rows: Sequence[Row]) -> TokenBatch:
    """One batch of rows, as wide as the longest."""
    width = max(len(row.ids) for row in rows)
    ids_RS = torch.zeros(len(rows), width, dtype=torch.int64)
    labels_RS = torch.full((len(rows), width), -100)
    for at, row in enumerate(rows):
        ids_RS[at, : len(row.ids)] = torch.tensor(row.ids)
        labels_RS[at, : len(row.ids)] = torch.tensor(row_labels(row))
    return TokenBatch(ids_RS, labels_RS)


def row_labels(row: Row) -> list[int]:
    """-100 where there is no loss: the context, and the first token of a row, which has nothing
    before it to be predicted from."""
    first = max(row.num_context, 1)
    return [-100] * min(first, len(row.ids)) + row.ids[first:]


def pack_rows(rows: Iterable[Row], *, length: int, batch_tokens: int) -> list[TokenBatch]:
    """Rows in their order to sequences of `length` tokens, as many in a batch as `batch_tokens`
    has room for (at least one).

    A longer text is cut to `length`. Raises InvalidSettings for a longer row with context, whose
    answer would be lost.
    """
    sequences = _fill(rows, length)
    num = max(1, batch_tokens // length)
    return [_batch(sequences[at : at + num], length) for at in range(0, len(sequences), num)]


def _fill(rows: Iterable[Row], length: int) -> list[list[Row]]:
    """First fit: into the oldest sequence with room; the fullest is closed where none has any."""
    closed: list[list[Row]] = []
    opened: list[list[Row]] = []
    room: list[int] = []
    for row in rows:
        if len(row.ids) > length and row.num_context:
            raise InvalidSettings(f"a row of {len(row.ids)} tokens, expected at most {length}")
        cut = row._replace(ids=row.ids[:length])
        at = next((at for at, free in enumerate(room) if free >= len(cut.ids)), None)
        if at is None:
            if len(opened) == _OPEN:
                fullest = room.index(min(room))
                room.pop(fullest)
                closed.append(opened.pop(fullest))
            opened.append([])
            room.append(length)
            at = len(opened) - 1
        opened[at].append(cut)
        room[at] -= len(cut.ids)
    return closed + opened


def _batch(sequences: Sequence[Sequence[Row]], length: int) -> TokenBatch:
    """int32, to be widened when it is used: a run's batches are all made beforehand."""
    ids_RS = torch.zeros(len(sequences), length, dtype=torch.int32)
    labels_RS = torch.full((len(sequences), length), -100, dtype=torch.int32)
    positions_RS = torch.zeros(len(sequences), length, dtype=torch.int32)
    for at, rows in enumerate(sequences):
        start = 0
        for row in rows:
            end = start + len(row.ids)
            ids_RS[at, start:end] = torch.tensor(row.ids, dtype=torch.int32)
            labels_RS[at, start:end] = torch.tensor(row_labels(row), dtype=torch.int32)
            positions_RS[at, start:end] = torch.arange(len(row.ids), dtype=torch.int32)
            start = end
    return TokenBatch(ids_RS, labels_RS, positions_RS)
