"""Settings of the memory, as the manifest of a release stores them. Knows nothing of items."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

# Least and largest values: a release comes from outside, and rooms are made in these sizes.
_BOUNDS: dict[str, tuple[float, float]] = {
    "window": (1, 1024),
    "recent": (1, 1024),
    "num_neighbours": (1, 2**31 - 1),
    "num_similar": (0, 2**16),
    "backward": (0, 1e6),
    "shrink": (1e-9, 1e6),
    "item_power": (0, 100),
    "later_power": (0, 100),
    "similar_weight": (0, 1e6),
    "similar_power": (0, 1e6),
    "decay": (0, 1),
    "scale": (0, 1e6),
    "floor": (1e-9, 1e6),
}


@dataclass(frozen=True)
class MemorySettings:
    """Settings of counting pairs, and of the bonus that their evidence gives. Raises ValueError."""

    # For the manifest. A plain dict, so this module needs no pydantic.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    window: int = 10  # later items that an item is counted with
    backward: float = 0.5  # count of (later item, item), as a share of (item, later item)
    # A pair's weight: its count / (item's total + shrink) ** item_power, and the same of the later.
    shrink: float = 20.0  # added to both totals
    item_power: float = 0.5  # of the item's total
    later_power: float = 0.3  # of the later item's total; smaller favours popular neighbours
    num_similar: int = 20  # of each item, the items with the most similar texts are neighbours too
    similar_weight: float = 0.3  # adds similar_weight * cosine ** similar_power to a pair's weight
    similar_power: float = 8.0  # larger favours texts that are nearly equal
    decay: float = 0.7  # share of an item's evidence, by each step back in the history
    recent: int = 5  # newest items of a history that give evidence
    num_neighbours: int = 64  # kept per item
    scale: float = 2.0  # bonus = scale * log(1 + evidence / floor)
    floor: float = 1e-4  # evidence that doubles the probability, with scale 1

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)}, expected {low:g}..{high:g}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
