"""Processes of one training, one for each GPU, as `accelerate launch` starts them.

All of them make the same batches. Each computes its share of a step, and the gradients are added
up, so that the weights stay equal and the result is that of one process. Needs accelerate, which
comes with peft.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

_PATIENCE = timedelta(hours=6)  # the others wait while the first one measures a stage

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among all processes of the training."""

    index: int = 0
    num: int = 1

    @property
    def is_first(self) -> bool:
        """Return True for the process that writes files and reports."""
        return self.index == 0

    def share(self, values: Sequence[Value]) -> Sequence[Value]:
        """Return this process's part of the values."""
        return values[self.index :: self.num]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        together = list(tensors)
        if self.num == 1 or not together:
            return
        from accelerate.utils import reduce

        flat = torch.cat([tensor.detach().float().flatten() for tensor in together])
        sums = reduce(flat, "sum").split([tensor.numel() for tensor in together])
        with torch.no_grad():
            for tensor, total in zip(together, sums, strict=True):
                tensor.copy_(total.reshape(tensor.shape))

    def add_gradients(self, weights: Iterable[Tensor]) -> None:
        """Add up the gradients; a process without a share of the step has none."""
        if self.num == 1:
            return
        found = list(weights)
        for weight in found:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        self.add_up(weight.grad for weight in found if weight.grad is not None)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.num > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


@cache
def processes() -> Processes:
    """Join the other processes of the training; alone if nothing has launched several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes)
