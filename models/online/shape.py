"""Sizes of an online recommender, as the manifest of a release stores them. Needs no torch.

Every size has bounds: a release comes from outside, and the compiled kernel trusts its sizes.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from models.errors import InvalidRelease

_BOUNDS = {
    "width": (1, 4096),
    "heads": (1, 256),
    "layers": (1, 64),
    "mlp": (1, 16),
    "window": (1, 1024),  # attention biases take 4 * heads * (2 * window)**2 bytes a layer
}
_MAX_NODES = 2**31 - 2  # the kernel counts them in 32 bits

UNKNOWN_SID = 2**62  # above every packed prefix, so it sorts behind all known ones
BIAS_ROWS = 64  # rows in each table of attention biases by distance


@dataclass(frozen=True)
class RecommenderConfig:
    """Hyperparameters of an online recommender. Raises ValueError for a size out of bounds."""

    # For the manifest: it may not have another name.
    __pydantic_config__: ClassVar[dict[str, str | bool]] = {"extra": "forbid"}

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
        for name, (low, high) in _BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)}, expected {low}..{high}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width}, expected a multiple of {self.heads} heads")
        if len(self.known_nodes) != len(self.sizes) - 1:
            raise ValueError(f"known_nodes {self.known_nodes}, expected {len(self.sizes) - 1}")
        if not all(0 <= num <= _MAX_NODES for num in self.known_nodes):
            raise ValueError(f"known_nodes {self.known_nodes}, expected 0..{_MAX_NODES} each")
        for name in ("dropout", "item_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}, expected 0 to below 1")
        if not 0 < self.item_scale < float("inf"):
            raise ValueError(f"item_scale {self.item_scale}, expected a finite number above 0")

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
        """Read what `to_json` wrote. Raises InvalidRelease, which names the field."""
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(("recommender", *map(str, first["loc"])))
            raise InvalidRelease(f"{where}: {first['msg']}") from exc
