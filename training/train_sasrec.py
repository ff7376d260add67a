"""Train the SASRec baseline: the next item at every position, with full cross-entropy.

Histories, crops, validation users and the choice of epoch are as for the online recommender.
"""

# B = users, H = items of a history, N = catalog rows

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.baselines.sasrec import SasRec, SasRecConfig, save_sasrec
from models.catalog.catalog import Catalog
from models.release.release import Release
from training.model_card import sasrec_card
from training.recipe import OnlineRecipe
from training.split import Split, UserSplit, sample_users, training_histories
from training.stages import Run
from training.train_online import Batch, batches, cosine_schedule

logger = logging.getLogger(__name__)
_TOP, _BATCH_USERS = 10, 256


@dataclass(frozen=True)
class SasRecRecipe:
    """Shape and training settings of SASRec."""

    width: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.5
    epochs: int = 40  # at most
    batch_items: int = 2048  # per batch, padding included
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200
    evaluate_every: int = 4  # epochs
    patience: int = 5  # evaluations without improvement before training stops
    num_validation_users: int = 5000
    seed: int = 0


def sasrec_stage(run: Run, release_dir: Path, out: Path) -> None:
    """Train on the catalog rows of a release; write model, `metrics.json` and card to `out`."""
    release, recipe = Release.load(release_dir), SasRecRecipe(seed=run.recipe.seed)
    model, metrics = train_sasrec(recipe, release.catalog, run.split)
    out.mkdir(parents=True, exist_ok=True)
    save_sasrec(model, out / "model.safetensors", release.catalog.item_ids)
    facts = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        **metrics,
        "data_sha256": run.data_digest,
        "torch": torch.__version__,
        "recipe": asdict(recipe),
    }
    (out / "metrics.json").write_text(json.dumps(facts, indent=1) + "\n")
    (out / "README.md").write_text(sasrec_card(facts))
    logger.info("sasrec: wrote %s, made %s", out, json.dumps(facts))


def train_sasrec(
    recipe: SasRecRecipe, catalog: Catalog, split: Split
) -> tuple[SasRec, dict[str, float]]:
    """Train until the validation recall@10 stops rising; return the best weights and figures."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    config = SasRecConfig(
        len(catalog), recipe.width, recipe.heads, recipe.layers, dropout=recipe.dropout
    )
    model, histories = SasRec(config), training_histories(catalog, split)
    validation = sample_users(split, recipe.num_validation_users, recipe.seed)
    sizes = OnlineRecipe(batch_items=recipe.batch_items)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    num_steps = sum(1 for _ in batches(histories, catalog, config.window, sizes, rng))
    schedule = cosine_schedule(optimizer, recipe.warmup_steps, recipe.epochs * num_steps)
    best, best_weights, started = {"recall@10": -1.0}, dict[str, Tensor](), time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        for batch in batches(histories, catalog, config.window, sizes, rng):
            optimizer.zero_grad()
            torch.autograd.backward(next_item_loss(model, batch))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch % recipe.evaluate_every and epoch != recipe.epochs:
            continue
        recall, ndcg = validate(model.eval(), catalog, validation)
        seconds = round(time.monotonic() - started, 1)
        logger.info(
            "sasrec epoch %d/%d valid recall@10 %.4f  %.0f s", epoch, recipe.epochs, recall, seconds
        )
        if recall > best["recall@10"]:
            best = {"recall@10": recall, "ndcg@10": ndcg, "epoch": epoch, "seconds": seconds}
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - best["epoch"] >= recipe.patience * recipe.evaluate_every:
            break
    model.load_state_dict(best_weights)
    return model.eval(), best


def next_item_loss(model: SasRec, batch: Batch) -> Tensor:
    """Return the mean of -log P(item | items before it), over all but each first item."""
    rows_BH, lengths_B = batch.rows_BH, batch.lengths_B
    states_BHW = model(rows_BH[:, :-1]) if rows_BH.shape[1] > 1 else model(rows_BH)[:, :0]
    is_real_BH = torch.arange(1, rows_BH.shape[1]) < lengths_B.unsqueeze(1)
    logits = model.logits(states_BHW[is_real_BH])
    total = functional.cross_entropy(logits, rows_BH[:, 1:][is_real_BH], reduction="sum")
    return total / max(len(logits), 1)


def validate(model: SasRec, catalog: Catalog, users: Sequence[UserSplit]) -> tuple[float, float]:
    """Return recall@10 and NDCG@10 of the validation targets.

    The whole catalog is ranked, except items of the history.
    """
    row_of = {item: row for row, item in enumerate(catalog.item_ids)}
    ranks: list[int] = []
    for start in range(0, len(users), _BATCH_USERS):
        chunk = users[start : start + _BATCH_USERS]
        histories = [[row_of[item] for item in user.train] for user in chunk]
        targets = torch.tensor([row_of[user.valid or ""] for user in chunk])
        scores_BN = model.score(histories)
        own_B1 = scores_BN.gather(1, targets.unsqueeze(1))
        for user, rows in enumerate(histories):
            scores_BN[user, rows] = -torch.inf
        ranks += (scores_BN > own_B1).sum(dim=1).tolist()
    hits, num = [rank for rank in ranks if rank < _TOP], max(len(ranks), 1)
    return len(hits) / num, sum(1 / math.log2(rank + 2) for rank in hits) / num
