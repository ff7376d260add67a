"""Sample packing: many rows in one sequence, none of which sees another.

Positions count anew in each row; transformers reads the borders from them (`masking_utils`,
`find_packed_sequence_indices`, 5.19) as long as it is given no attention mask.
"""

# R = packed sequences of a batch, S = their length

from collections.abc import Iterable, Sequence

import torch

from models.errors import InvalidSettings
from training.tasks import Row, TokenBatch, row_labels

_OPEN = 32  # sequences that may still take a row


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
