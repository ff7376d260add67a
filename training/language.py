"""Training loop of a language model over given batches: warm-up, cosine, bfloat16 arithmetic.

Two things would fill a GPU: the activations of a batch, and the logits of its tokens, of which a
Qwen3 has 152,000 each. So a batch may go through the model in parts, and logits are made for some
tokens at a time, once more in the backward pass.

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
from torch.utils.checkpoint import checkpoint as compute_again

from models.reasoner.placement import multiplies_bfloat16
from training.batching import TokenBatch, split_batch
from training.checkpoint import Checkpoint, Progress
from training.learner import plain_model
from training.processes import processes
from training.progress import StageBar

_NUM_RECENT = 50
_SECONDS_BETWEEN_CHECKPOINTS = 120.0
LOGITS_AT_ONCE = 2**25  # numbers; half a GB, at a peak of four copies


@dataclass(frozen=True)
class LanguageRecipe:
    """Learning-rate schedule of one stage."""

    learning_rate: float  # peak
    warmup_steps: int = 50
    final_fraction: float = 0.1  # of the peak, at the last step
    weight_decay: float = 0.01
    micro_tokens: int = 0  # of one forward and backward pass; 0: the whole batch


def language_loss(model: Any, batch: TokenBatch) -> Tensor:
    """Return the mean cross-entropy over labelled tokens."""
    return token_losses(model, batch).mean()


def token_losses(model: Any, batch: TokenBatch) -> Tensor:
    """Return the cross-entropy of each labelled token: float32 (N,). Others need no logits."""
    hidden_NW, wanted_N = _labelled(model, batch)
    head = model.get_output_embeddings()
    most = max(1, LOGITS_AT_ONCE // len(head.weight))
    if len(wanted_N) <= most:
        return _cross_entropy(head, hidden_NW, wanted_N)
    parts = [
        compute_again(_cross_entropy, head, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(hidden_NW.split(most), wanted_N.split(most), strict=True)
    ]
    return torch.cat(parts)


def _labelled(model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return the hidden state (N, W) before each labelled token, and the token's id (N,)."""
    backbone = plain_model(model).base_model
    ids_RS, labels_RS = (part.to(model.device, torch.int64) for part in batch[:2])
    packed = {}
    if batch.positions_RS is not None:
        packed["position_ids"] = batch.positions_RS.to(model.device, torch.int64)
    hidden_RSW = backbone(input_ids=ids_RS, use_cache=False, **packed).last_hidden_state
    wanted_RS = labels_RS[:, 1:] != -100
    return hidden_RSW[:, :-1][wanted_RS], labels_RS[:, 1:][wanted_RS]


def _cross_entropy(head: Any, hidden_NW: Tensor, wanted_N: Tensor) -> Tensor:
    return functional.cross_entropy(head(hidden_NW).float(), wanted_N, reduction="none")


def autocast(device: torch.device, dtype: torch.dtype = torch.float32) -> torch.autocast:
    """Return the autocast context: bfloat16 if the device has it, or for weights in it."""
    is_on = multiplies_bfloat16(device) or dtype == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=is_on)


def precision(model: Any) -> torch.autocast:
    """Return the context in which a learner's model is computed, for sampling and for scoring."""
    return autocast(model.device, model.dtype)


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
            loss = _step(model, batch, recipe, weights, optimizer)
            progress.recent = [*progress.recent[1 - _NUM_RECENT :], loss]
            progress.step += 1
            progress.num_tokens += batch.ids_RS.numel()
            progress.seconds += time.monotonic() - started
            late = sum(progress.recent) / len(progress.recent)
            bar.step(progress.step, loss=late, num_tokens=batch.ids_RS.numel())
            is_due = time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS
            if checkpoint and is_due and processes().is_first:
                checkpoint.save(weights, optimizer, progress)
                saved = time.monotonic()
    model.eval()
    return {
        "loss": round(sum(progress.recent) / max(len(progress.recent), 1), 4),
        "tokens": progress.num_tokens,
        "seconds": round(progress.seconds, 1),
    }


def _step(
    model: Any,
    batch: TokenBatch,
    recipe: LanguageRecipe,
    weights: dict[str, Any],
    optimizer: torch.optim.Optimizer,
) -> float:
    optimizer.zero_grad()
    loss = add_gradients(model, batch, micro_tokens=recipe.micro_tokens)
    torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
    optimizer.step()
    return loss


def add_gradients(model: Any, batch: TokenBatch, *, micro_tokens: int) -> float:
    """Add the gradients of a batch's mean loss, part by part; return the loss.

    Several processes compute a part of the sequences each, and have the same gradients afterwards.
    """
    num_labelled = max(1, int((batch.labels_RS[:, 1:] != -100).sum()))
    total = torch.zeros((), device=model.device)
    for part in split_batch(share_batch(batch), micro_tokens):
        with precision(model):
            loss = token_losses(model, part).sum() / num_labelled
        torch.autograd.backward(loss)
        total += loss.detach()
    processes().add_gradients(value for value in model.parameters() if value.requires_grad)
    processes().add_up([total])
    return total.item()


def share_batch(batch: TokenBatch) -> TokenBatch:
    """Return this process's sequences of a batch; all of them if it is alone."""
    own = slice(processes().index, None, processes().num)
    positions_RS = None if batch.positions_RS is None else batch.positions_RS[own]
    return TokenBatch(batch.ids_RS[own], batch.labels_RS[own], positions_RS)


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
