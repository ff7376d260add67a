"""A running average of a model's weights over its last steps.

With a constant learning rate the weights never settle; their average does, and ranks better.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_FIRST_STEPS = 10  # the smaller, the sooner the average forgets the untrained weights


class AveragedWeights:
    """Exponential average of the parameters of one model."""

    def __init__(self, model: nn.Module, num_steps: int) -> None:
        """Begin at the weights of now.

        num_steps: steps that the average covers, about; 0 follows the last step alone.
        """
        self._parameters: list[Tensor] = list(model.parameters())
        self._averages = [weight.detach().clone() for weight in self._parameters]
        self._num_steps, self._step = num_steps, torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step; the first steps are averaged over fewer."""
        self._step += 1
        share = 0.0 if not self._num_steps else 1 - 1 / self._num_steps
        step = int(self._step)
        share = min(share, step / (step + _FIRST_STEPS))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - share)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages and the number of steps, to save or to overwrite in place."""
        averages = {str(at): average for at, average in enumerate(self._averages)}
        return averages | {"steps": self._step}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hold the averages in the model, then the weights of the last step again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def install(self) -> None:
        """Leave the averages in the model."""
        for weight, average in zip(self._parameters, self._averages, strict=True):
            weight.copy_(average)

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self._parameters, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
