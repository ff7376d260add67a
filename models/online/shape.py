"""Sizes of an online recommender, as the manifest of a release stores them. Needs no torch."""

from dataclasses import asdict, dataclass
from typing import Any

UNKNOWN_SID = 2**62  # above every packed prefix, so it sorts behind all known ones
BIAS_ROWS = 64  # rows in each table of attention biases by distance


@dataclass(frozen=True)
class RecommenderConfig:
    """Hyperparameters of an online recommender."""

    sizes: tuple[int, ...]  # codes per level
    width: int = 128
    heads: int = 4
    layers: int = 2
    mlp: int = 2  # inner width of the MLPs, in model widths
    # Number of SID prefixes with an embedding of their own: of two codes, of three, and so on.
    # Other prefixes use the embedding of their last code alone.
    known_nodes: tuple[int, ...] = ()
    # A history grows to one item short of two windows, then drops its older half
    # (`models.online.history_cache`). Training crops histories to one window.
    window: int = 50
    dropout: float = 0.3  # of everything but item embeddings
    item_dropout: float = 0.6  # of the item embeddings in a history
    # Factor on item embeddings in a history. The same embeddings score items, and have to be small
    # there; in a history they have to be as large as the start.
    item_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.known_nodes:
            object.__setattr__(self, "known_nodes", (0,) * (len(self.sizes) - 1))

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @property
    def max_rows(self) -> int:
        """Number of rows of the longest history: its start and its items."""
        return 2 * self.window

    @property
    def max_distance(self) -> int:
        """Largest trained distance; larger distances are clipped to it."""
        return min(BIAS_ROWS - 1, self.window)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sizes": list(self.sizes), "known_nodes": list(self.known_nodes)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RecommenderConfig":
        tuples = {name: tuple(values[name]) for name in ("sizes", "known_nodes")}
        return cls(**values | tuples)
