"""Tables of a recipe that shape the items' SIDs, the online recommender and its teacher."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from models.online.shape import RecommenderConfig
from training.history_length import check_history


@dataclass(frozen=True)
class QuantizeRecipe:
    """Settings of quantizing."""

    sizes: tuple[int, ...] = (64, 64, 256)  # codebook sizes, coarse to fine
    prefix_depth: int = 2
    text_weight: float = 0.7  # share of text; the rest is co-occurrence


@dataclass(frozen=True)
class ShapeRecipe:
    """Shape of the online recommender; see `models.online.shape.RecommenderConfig`."""

    width: int = 128
    heads: int = 4
    layers: int = 2
    mlp: int = 2
    window: int = 50  # items of a history that training reads at once
    dropout: float = 0.5
    item_dropout: float = 0.5

    def __post_init__(self) -> None:
        check_history("window", self.window)

    def to_config(self, sizes: Sequence[int]) -> RecommenderConfig:
        """Make the configuration of a recommender over codebooks of these sizes."""
        scale = self.width**0.5
        return RecommenderConfig(sizes=tuple(sizes), item_scale=scale, **dataclasses.asdict(self))


@dataclass(frozen=True)
class FitRecipe:
    """Settings of fitting; the online recommender and SASRec share them."""

    epochs: int = 100  # at most
    batch_users: int = 256  # random users per step
    learning_rate: float = 1e-3  # of Adam, constant
    evaluate_every: int = 2  # epochs
    patience: int = 5  # evaluations without improvement before training stops
    num_validation_users: int = 5000
    average_steps: int = 500  # the weights are averaged over about as many; 0 takes the last ones
    seed: int = 0


@dataclass(frozen=True)
class SasRecRecipe:
    """Shape of SASRec; it is fitted as the online recommender is."""

    width: int = 128
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5


@dataclass(frozen=True)
class TeacherRecipe:
    """Settings of learning from a teacher."""

    share: float = 0.5  # of the loss; 0 trains without a teacher
    positions: int = 640  # positions of each step that are taught, drawn at random
