"""Training loop of a language model over given batches: warm-up, cosine, bfloat16 arithmetic.

Knows tokens and weights; knows nothing of tasks, items or users.
"""

# R = rows, S = tokens, W = width, N = labelled tokens, V = vocabulary

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.machine import has_bfloat16
from training.batching import TokenBatch
from training.checkpoint import Checkpoint, Progress
from training.learner import plain_model
from training.progress import StageBar

_NUM_RECENT = 50
_SECONDS_BETWEEN_CHECKPOINTS = 120.0


@dataclass(frozen=True)
class LanguageRecipe:
    """Learning-rate schedule of one stage."""

    learning_rate: float  # peak
    warmup_steps: int = 50
    final_fraction: float = 0.1  # of the peak, at the last step
    weight_decay: float = 0.01


def language_loss(model: Any, batch: TokenBatch) -> Tensor:
    """Return the mean cross-entropy over labelled tokens. Other tokens need no logits."""
    logits_NV, wanted_N = labelled_logits(model, batch)
    return functional.cross_entropy(logits_NV, wanted_N)


def labelled_logits(model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return the float32 logits (N, V) that predict each labelled token, and its id (N,)."""
    backbone = plain_model(model).base_model
    ids_RS, labels_RS = (part.to(model.device, torch.int64) for part in batch[:2])
    packed = {}
    if batch.positions_RS is not None:
        packed["position_ids"] = batch.positions_RS.to(model.device, torch.int64)
    hidden_RSW = backbone(input_ids=ids_RS, use_cache=False, **packed).last_hidden_state
    wanted_RS = labels_RS[:, 1:] != -100
    logits_NV = model.get_output_embeddings()(hidden_RSW[:, :-1][wanted_RS])
    return logits_NV.float(), labels_RS[:, 1:][wanted_RS]


def autocast(device: torch.device) -> torch.autocast:
    """Return the autocast context: bfloat16 if the device has it."""
    is_fit = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_bfloat16()
    return torch.autocast(device.type, torch.bfloat16, enabled=is_fit)


def train_language(
    model: Any,
    batches: Sequence[TokenBatch],
    recipe: LanguageRecipe,
    *,
    stage: str,
    checkpoint: Checkpoint | None = None,
) -> dict[str, float]:
    """Train over `batches` once, in order; return mean loss of the last steps, tokens, seconds.

    checkpoint: written every two minutes; the run continues from it. With equal batches, a resumed
    run gives the weights of an uninterrupted one, unless the model draws random numbers.
    """
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(
        weights.values(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        betas=(0.9, 0.95),
    )
    progress = (checkpoint and checkpoint.resume(weights, optimizer)) or Progress()
    saved = time.monotonic()
    model.train()
    with StageBar(stage, len(batches), done=progress.step) as bar:
        for batch in batches[progress.step :]:
            started = time.monotonic()
            _set_learning_rate(optimizer, recipe, progress.step, len(batches))
            loss = _step(model, batch, weights, optimizer)
            progress.recent = [*progress.recent[1 - _NUM_RECENT :], loss]
            progress.step += 1
            progress.num_tokens += batch.ids_RS.numel()
            progress.seconds += time.monotonic() - started
            late = sum(progress.recent) / len(progress.recent)
            bar.step(progress.step, loss=late, num_tokens=batch.ids_RS.numel())
            if checkpoint and time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                checkpoint.save(weights, optimizer, progress)
                saved = time.monotonic()
    model.eval()
    return {
        "loss": round(sum(progress.recent) / max(len(progress.recent), 1), 4),
        "tokens": progress.num_tokens,
        "seconds": round(progress.seconds, 1),
    }


def _step(
    model: Any, batch: TokenBatch, weights: dict[str, Any], optimizer: torch.optim.Optimizer
) -> float:
    with autocast(model.device):
        loss = language_loss(model, batch)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
    optimizer.step()
    return loss.item()


def _set_learning_rate(
    optimizer: torch.optim.Optimizer, recipe: LanguageRecipe, step: int, total: int
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * _factor(step, total, recipe)


def _factor(step: int, total: int, recipe: LanguageRecipe) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(total, 1))))
    return recipe.final_fraction + (1 - recipe.final_fraction) * cosine
