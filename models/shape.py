"""The shape of an online recommender: what a release's manifest says of it. Needs no torch."""

from dataclasses import asdict, dataclass
from typing import Any

UNKNOWN_SID = 2**62  # above every packed SID: behind the known ones, so that a look-up ends there
BIAS_ROWS = 64  # of each table of attention biases by distance


@dataclass(frozen=True)
class RecommenderConfig:
    """mlp: inner width of the MLPs, in model widths. pair_rows: of the table of two-code prefixes;
    spaces of more pairs share its rows.
    known_items, item_width: how many items have an embedding of their own, and its width; other
    items are what their codes say. item_dropout: of that embedding, beside `dropout`.

    window: a history grows to one item short of two windows before its older half is let go
    (`models.history`); training crops histories to one.
    """

    sizes: tuple[int, ...]
    width: int = 192
    heads: int = 4
    layers: int = 3
    mlp: int = 2
    pair_rows: int = 4096
    known_items: int = 0
    item_width: int = 64
    window: int = 50
    dropout: float = 0.4
    item_dropout: float = 0.3

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @property
    def max_rows(self) -> int:
        """Vectors of the longest history: its start and its items."""
        return 2 * self.window

    @property
    def max_distance(self) -> int:
        """Distances beyond the window never occur in training: they count as this one."""
        return min(BIAS_ROWS - 1, self.window)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sizes": list(self.sizes)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RecommenderConfig":
        return cls(**values | {"sizes": tuple(values["sizes"])})
