"""One version of the weights in training: a recommender with its optimizer, which can grow.

Growing adds rows of zeros, so that no score changes until a step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.online.grown_recommender import grow_recommender, rows_of_old
from models.online.recommender import OnlineRecommender
from models.online.torch_runtime import copy_recommender
from training.learn.lazy_adam import LazyAdam, Rates

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Anchor:
    """The weights of the last whole training, towards which learning is pulled."""

    recommender: OnlineRecommender

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.recommender.named_parameters()}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A recommender and the optimizer that changes it in place."""

    recommender: OnlineRecommender
    optimizer: LazyAdam

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.recommender.named_parameters()}

    @classmethod
    def new(cls, anchor: Anchor, rates: Rates) -> "Candidate":
        """Begin at the anchor."""
        recommender = copy_recommender(anchor.recommender, torch.float32)
        return cls(recommender, LazyAdam(recommender, anchor.weights, rates))

    def copy(self, anchor: Anchor, rates: Rates) -> "Candidate":
        copy = Candidate.new(anchor, rates)
        copy.restore(self.tensors())
        return copy

    def grown(
        self, packed_by_depth: Sequence[NDArray[np.int64]], anchor: Anchor, rates: Rates
    ) -> "Candidate":
        """Return a copy that knows more prefixes; `anchor` knows them already."""
        recommender = grow_recommender(self.recommender, packed_by_depth)
        tables = rows_of_old(self.recommender, recommender)
        rows = {
            f"node_embeddings.{at}.own.weight": torch.from_numpy(row_of_old)
            for at, row_of_old in enumerate(tables)
        }
        optimizer = LazyAdam(recommender, anchor.weights, rates)
        optimizer.restore_grown(self.optimizer.state(), rows)
        return Candidate(recommender, optimizer)

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and state of the optimizer by name; steps change them in place."""
        weights = {f"weight/{name}": value for name, value in self.weights.items()}
        return weights | {f"state/{name}": value for name, value in self.optimizer.state().items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a model of the same shape, named as `tensors` names them."""
        for name, value in self.weights.items():
            value.copy_(tensors[f"weight/{name}"])
        state = {name: tensors[f"state/{name}"] for name in self.optimizer.state()}
        self.optimizer.restore(state)

    def arrays(self) -> Arrays:
        """Return a copy of the tensors of `online.safetensors`, by name."""
        state = self.recommender.state_dict()
        return {name: value.detach().numpy().copy() for name, value in state.items()}


def anchor_knowing(base: OnlineRecommender, packed_by_depth: Sequence[NDArray[np.int64]]) -> Anchor:
    """Return the anchor of a base over more prefixes."""
    return Anchor(grow_recommender(base, packed_by_depth).eval())
