"""One language-model training run over batches: warm-up, cosine, bf16 arithmetic.

Knows tokens and weights; knows nothing of tasks, items or users.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.tasks import TokenBatch

logger = logging.getLogger(__name__)
_LOG_EVERY = 50


@dataclass(frozen=True)
class LanguageRecipe:
    """Peak learning rate and its shape over the steps of one stage."""

    learning_rate: float
    warmup_steps: int = 50
    final_fraction: float = 0.1
    weight_decay: float = 0.01


def language_loss(model: Any, batch: TokenBatch) -> Tensor:
    """Mean cross-entropy over the labelled tokens; no logits are computed for the others."""
    hidden_RSW = model.base_model(input_ids=batch.ids_RS, use_cache=False).last_hidden_state
    wanted_RS = batch.labels_RS[:, 1:] != -100
    logits = model.get_output_embeddings()(hidden_RSW[:, :-1][wanted_RS])
    return functional.cross_entropy(logits.float(), batch.labels_RS[:, 1:][wanted_RS])


def train_language(
    model: Any, batches: Sequence[TokenBatch], recipe: LanguageRecipe, *, stage: str
) -> dict[str, float]:
    """Train over `batches` once, in order; returns late mean loss, tokens and seconds."""
    weights = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.95)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _factor(step, len(batches), recipe)
    )
    started, num_tokens = time.monotonic(), 0
    losses: list[float] = []
    model.train()
    for step, batch in enumerate(batches, start=1):
        with torch.autocast("cpu", torch.bfloat16):
            loss = language_loss(model, batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        num_tokens += batch.ids_RS.numel()
        if step % _LOG_EVERY == 0 or step == len(batches):
            _log(stage, step, len(batches), losses, num_tokens, started)
    model.eval()
    recent = losses[-_LOG_EVERY:]
    return {
        "loss": round(sum(recent) / max(len(recent), 1), 4),
        "tokens": num_tokens,
        "seconds": round(time.monotonic() - started, 1),
    }


def _factor(step: int, total: int, recipe: LanguageRecipe) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(total, 1))))
    return recipe.final_fraction + (1 - recipe.final_fraction) * cosine


def _log(
    stage: str, step: int, total: int, losses: Sequence[float], num_tokens: int, started: float
) -> None:
    elapsed = time.monotonic() - started
    recent = losses[-_LOG_EVERY:]
    logger.info(
        "%s step %d/%d loss %.3f  %.0f tokens/s  %.0f s, %.0f s to go",
        stage, step, total, sum(recent) / len(recent),
        num_tokens / elapsed, elapsed, elapsed / step * (total - step),
    )  # fmt: skip
