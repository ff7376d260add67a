"""SASRec (Kang and McAuley, 2018) with a softmax over the whole catalog: a baseline.

Items are rows of one catalog; it knows no SIDs. Its loss is the full cross-entropy, with which it
beats most models published after it. The details are those of the original: embeddings times
sqrt(width), a residual from the normalised query, a narrow ReLU layer.
"""

# B = users, H = items of a history, W = width, N = catalog rows

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from models.errors import InvalidRelease, ReleaseMismatch, one_line

_ITEMS = "items_sha256"


@dataclass(frozen=True)
class SasRecConfig:
    """Hyperparameters of SASRec."""

    num_items: int
    width: int = 64
    heads: int = 2
    layers: int = 2
    window: int = 50  # newest items of a history that are read
    dropout: float = 0.5


class SasRec(nn.Module):
    """Causal self-attention over items; logits are products with the same item embeddings."""

    def __init__(self, config: SasRecConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.num_items, config.width)
        self.positions = nn.Embedding(config.window, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, rows_BH: Tensor) -> Tensor:
        """Encode histories, oldest first and padded on the right: (B, H) to (B, H, W).

        The vector of an item predicts the next item. Positions count from the first item given.
        """
        num = rows_BH.shape[1]
        items_BHW = self.items(rows_BH) * self.config.width**0.5
        x_BHW = self.dropout(items_BHW + self.positions.weight[:num])
        is_ahead_HH = torch.ones(num, num, dtype=torch.bool).triu(1)
        for block in self.blocks:
            x_BHW = block(x_BHW, is_ahead_HH)
        states: Tensor = self.norm(x_BHW)
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Score the whole catalog: (..., W) to (..., N)."""
        return states @ self.items.weight.T

    @torch.no_grad()
    def score(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """Score the catalog for histories of catalog rows, oldest first, not empty: (B, N)."""
        recent = [list(history[-self.config.window :]) for history in histories]
        last_B = torch.tensor([len(history) - 1 for history in recent])
        rows_BH = torch.zeros(len(recent), int(last_B.max()) + 1, dtype=torch.int64)
        for user, history in enumerate(recent):
            rows_BH[user, : len(history)] = torch.tensor(history)
        return self.logits(self(rows_BH)[torch.arange(len(recent)), last_B])


class _Block(nn.Module):
    """Attention whose query alone is normalised, then two layers of the same width with ReLU."""

    def __init__(self, config: SasRecConfig) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.query_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, config.heads, dropout, batch_first=True)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BHW: Tensor, is_ahead_HH: Tensor) -> Tensor:
        query_BHW = self.query_norm(x_BHW)
        mixed_BHW, _ = self.attention(
            query_BHW, x_BHW, x_BHW, attn_mask=is_ahead_HH, need_weights=False
        )
        x_BHW = self.norm(query_BHW + mixed_BHW)
        inner_BHW = self.dropout(functional.relu(self.up(x_BHW)))
        result: Tensor = x_BHW + self.dropout(self.down(inner_BHW))
        return result


def save_sasrec(model: SasRec, file: Path, item_ids: Sequence[str]) -> None:
    """Save in bfloat16; the metadata holds the shape and a digest of the item ids."""
    weights = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
    shape = {name: str(value) for name, value in asdict(model.config).items()}
    save_file(weights, file, metadata={**shape, _ITEMS: _digest(item_ids)})


def load_sasrec(file: Path, item_ids: Sequence[str]) -> SasRec:
    """Load in float32, ready to score.

    Raises InvalidRelease for an unreadable file, ReleaseMismatch for a model of other items.
    """
    try:
        with safe_open(file, "pt") as stored:
            shape = dict(stored.metadata() or {})
            items = shape.pop(_ITEMS, "")
            weights = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
        if items != _digest(item_ids):
            raise ReleaseMismatch(f"{file}: knows other items, expected the release's in its order")
        model = SasRec(SasRecConfig(**{name: _number(text) for name, text in shape.items()}))
        model.load_state_dict(weights)
    except ReleaseMismatch:
        raise
    except Exception as exc:
        raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
    return model.eval()


def _digest(item_ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(item_ids).encode()).hexdigest()


def _number(text: str) -> Any:
    return float(text) if "." in text else int(text)
