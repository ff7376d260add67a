"""The shape of an online recommender: what a release's manifest says of it. Needs no torch."""

from dataclasses import asdict, dataclass
from typing import Any

UNKNOWN_SID = 2**62  # above every packed prefix: it lies behind all that are known
BIAS_ROWS = 64  # of each table of attention biases by distance


@dataclass(frozen=True)
class RecommenderConfig:
    """mlp: inner width of the MLPs, in model widths.

    known_nodes: how many SID prefixes of two codes, of three and so on have an embedding of their
    own; others are what their last code says.
    item_dropout: of what a history holds of an item; `dropout` is of all else.
    window: a history grows to one item short of two windows before its older half is let go
    (`models.online.history_cache`); training crops histories to one.
    """

    sizes: tuple[int, ...]
    width: int = 128
    heads: int = 4
    layers: int = 2
    mlp: int = 2
    known_nodes: tuple[int, ...] = ()
    window: int = 50
    dropout: float = 0.3
    item_dropout: float = 0.6

    def __post_init__(self) -> None:
        if not self.known_nodes:
            object.__setattr__(self, "known_nodes", (0,) * (len(self.sizes) - 1))

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
        return asdict(self) | {"sizes": list(self.sizes), "known_nodes": list(self.known_nodes)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RecommenderConfig":
        tuples = {name: tuple(values[name]) for name in ("sizes", "known_nodes")}
        return cls(**values | tuples)
