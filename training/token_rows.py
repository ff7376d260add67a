"""Trained rows of frozen token matrices, as small parameters of their own.

A matrix with a row for each token is by far the largest weight of a small model. To learn a few of
its rows by masking its gradient would keep gradient and optimizer state of all rows. Knows token
matrices; knows nothing of tokenizers, tasks or adapters.
"""

# V = vocabulary, F = trained rows, W = width, N = tokens

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_NAME = "rows"  # of the parameter, inside the module of the matrix


class TokenRows:
    """Float32 rows in place of rows of the frozen matrices, in every forward pass."""

    def __init__(self, model: Any, row_ids: Tensor, values: Sequence[Tensor] | None = None) -> None:
        """Freeze the matrices of `model` and put rows in front of them.

        row_ids: (F,), not empty. values: (F, W) for each matrix; None for the model's own rows.
        """
        modules = token_modules(model)
        weights = [module.weight for module in modules]
        values = values or [weight.detach()[row_ids] for weight in weights]
        device = weights[0].device
        self._ids_F = row_ids.to(device)
        self._place_V = torch.full((len(weights[0]),), -1, device=device)
        self._place_V[self._ids_F] = torch.arange(len(row_ids), device=device)
        self._modules = modules
        for module, value in zip(modules, values, strict=True):
            module.weight.requires_grad_(False)
            rows_FW = nn.Parameter(value.detach().to(device, torch.float32, copy=True))
            module.register_parameter(_NAME, rows_FW)
        self._hooks = [
            model.get_input_embeddings().register_forward_hook(self._embed),
            model.get_output_embeddings().register_forward_hook(self._score),
        ]

    @property
    def values(self) -> list[Tensor]:
        """Return the rows (F, W): of the embedding, and of the head if it is not tied."""
        return [getattr(module, _NAME) for module in self._modules]

    @torch.no_grad()
    def settle(self) -> None:
        """Write the rows into the matrices, which are plain again afterwards."""
        for module, rows_FW in zip(self._modules, self.values, strict=True):
            module.weight[self._ids_F] = rows_FW.to(module.weight.dtype)
            delattr(module, _NAME)
        for hook in self._hooks:
            hook.remove()

    def _embed(self, _: nn.Module, inputs: tuple[Tensor], found: Tensor) -> Tensor:
        place = self._place_V[inputs[0]]
        rows = functional.embedding(place.clamp(min=0), self.values[0]).to(found.dtype)
        return torch.where((place >= 0).unsqueeze(-1), rows, found)

    def _score(self, _: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        """Replace the logits of the trained tokens, in place: the matrix may be most of a GPU."""
        hidden = inputs[0]
        own = functional.linear(hidden, self.values[-1].to(hidden.dtype))
        return logits.index_copy_(-1, self._ids_F, own.to(logits.dtype))


def token_modules(model: Any) -> list[Any]:
    """Return the modules with one row per token: embedding, and head if it is not tied."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return [embedding] if embedding.weight is head.weight else [embedding, head]
