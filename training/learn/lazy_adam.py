"""Adam that keeps and changes only the rows of a table that a step touches.

An embedding that nobody asked for has no gradient, so neither its moments nor its weight decay by
passing time, and a step costs little. Every step also pulls the touched weights towards an anchor:
the weights of the last whole training.
"""

# R = touched rows, W = model width

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_TABLE = re.compile(r"(code_embeddings\.\d+|node_embeddings\.\d+\.own)\.weight")
_BETAS = (0.9, 0.99)  # of the mean and of the squared mean
_EPSILON = 1e-8
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Rates:
    """Rates of learning."""

    rows: float = 2e-3  # of the rows of tables
    dense: float = 3e-4  # of all other weights
    pull: float = 1e-3  # share of the way to the anchor that touched weights go back in a step


class LazyAdam:
    """Optimizer of one recommender. Its state is a dict of tensors."""

    def __init__(self, model: nn.Module, anchor: Mapping[str, Tensor], rates: Rates) -> None:
        """anchor: weights by name; they are not copied."""
        self._weights = dict(model.named_parameters())
        self._anchor, self._rates = anchor, rates
        self._means = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._squares = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        # Steps of each row of a table, of a dense weight as a whole.
        self._num_steps = {
            name: torch.zeros(len(weight) if is_table(name) else 1, dtype=torch.int64)
            for name, weight in self._weights.items()
        }

    def zero_grad(self) -> None:
        for weight in self._weights.values():
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights by their gradients; rows without one stay as they are."""
        for name, weight in self._weights.items():
            if weight.grad is None:
                continue
            if is_table(name):
                row_R = weight.grad.any(dim=1).nonzero().squeeze(-1)
                self._step_rows(name, weight, row_R)
            else:
                self._step_dense(name, weight)

    def state(self) -> Tensors:
        """Return the state by name; steps change these tensors in place."""
        parts = {"mean": self._means, "square": self._squares, "steps": self._num_steps}
        return {
            f"{part}/{name}": value
            for part, tensors in parts.items()
            for name, value in tensors.items()
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state of a model of the same shape."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def restore_grown(self, state: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        """Take over the state of a smaller model.

        rows: by name of a table that grew, the new row of each old one; new rows begin at zero.
        """
        for name, tensor in self.state().items():
            row_of_old = rows.get(name.partition("/")[2])
            if row_of_old is None:
                tensor.copy_(state[name])
            else:
                tensor[row_of_old] = state[name]

    def _step_rows(self, name: str, weight: Tensor, row_R: Tensor) -> None:
        assert weight.grad is not None
        gradient_RW = weight.grad[row_R]
        mean_RW = self._means[name][row_R].lerp_(gradient_RW, 1 - _BETAS[0])
        square_RW = self._squares[name][row_R].lerp_(gradient_RW**2, 1 - _BETAS[1])
        steps_R1 = (self._num_steps[name][row_R] + 1).unsqueeze(1)
        self._means[name][row_R], self._squares[name][row_R] = mean_RW, square_RW
        self._num_steps[name][row_R] = steps_R1.squeeze(1)
        moved_RW = weight[row_R] - self._rates.rows * _direction(mean_RW, square_RW, steps_R1)
        weight[row_R] = moved_RW.lerp_(self._anchor[name][row_R], self._rates.pull)

    def _step_dense(self, name: str, weight: Tensor) -> None:
        assert weight.grad is not None
        mean = self._means[name].lerp_(weight.grad, 1 - _BETAS[0])
        square = self._squares[name].lerp_(weight.grad**2, 1 - _BETAS[1])
        steps = self._num_steps[name].add_(1)
        weight.sub_(self._rates.dense * _direction(mean, square, steps))
        weight.lerp_(self._anchor[name], self._rates.pull)


def is_table(name: str) -> bool:
    """Tell if a weight is a table of codes or nodes."""
    return _TABLE.fullmatch(name) is not None


def _direction(mean: Tensor, square: Tensor, num_steps: Tensor) -> Tensor:
    """Return the step of Adam at rate 1, with both moments corrected for their start at zero."""
    mean = mean / (1 - _BETAS[0] ** num_steps)
    return mean / ((square / (1 - _BETAS[1] ** num_steps)).sqrt_() + _EPSILON)
