"""Train the online recommender to predict the next SID at every position of a history.

The best epoch is chosen by the validation targets of a fixed sample of users. Test targets are
never seen here.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.catalog.trie import CatalogTrie
from models.online.finish import Finisher
from models.online.history_cache import window_start
from models.online.recommender import OnlineRecommender, pack_sids
from models.online.shape import RecommenderConfig
from models.online.torch_runtime import fastest_searcher
from training.recipe import OnlineRecipe
from training.sid_loss import SidLoss
from training.split import Split, UserSplit, sample_users, training_histories

logger = logging.getLogger(__name__)
_TOP = 10


class OnlineResult(NamedTuple):
    recommender: OnlineRecommender
    metrics: dict[str, float]


class Batch(NamedTuple):
    """Histories, padded at the end. B = users, H = items, L = levels."""

    sids_BHL: Tensor
    lengths_B: Tensor  # items of each history
    rows_BH: Tensor  # catalog rows


def train_online(
    config: RecommenderConfig, recipe: OnlineRecipe, catalog: Catalog, split: Split
) -> OnlineResult:
    """Train until the validation recall@10 stops rising; return the best weights."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    recommender = new_recommender(config, catalog)
    sid_loss = SidLoss(recommender, catalog.trie)
    histories = training_histories(catalog, split)
    validation = sample_users(split, recipe.num_validation_users, recipe.seed)
    optimizer = torch.optim.AdamW(
        recommender.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps_per_epoch = sum(1 for _ in batches(histories, catalog, config.window, recipe, rng))
    schedule = cosine_schedule(optimizer, recipe.warmup_steps, recipe.epochs * steps_per_epoch)
    best: dict[str, float] = {"recall@10": -1.0}
    best_weights: dict[str, Tensor] = {}
    started = time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        recommender.train()
        losses = []
        for batch in batches(histories, catalog, config.window, recipe, rng):
            loss = next_sid_loss(recommender, sid_loss, batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(recommender.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if epoch % recipe.evaluate_every and epoch != recipe.epochs:
            continue
        recall, ndcg = validate(recommender, catalog, validation)
        _log(epoch, recipe.epochs, float(np.mean(losses)), recall, started)
        if recall > best["recall@10"]:
            best = {"recall@10": recall, "ndcg@10": ndcg, "epoch": epoch}
            best_weights = {name: value.clone() for name, value in recommender.state_dict().items()}
        elif epoch - best["epoch"] >= recipe.patience * recipe.evaluate_every:
            break
    recommender.load_state_dict(best_weights)
    best["seconds"] = round(time.monotonic() - started, 1)
    return OnlineResult(recommender.eval(), best)


def new_recommender(config: RecommenderConfig, catalog: Catalog) -> OnlineRecommender:
    """Create an untrained recommender; seed torch first.

    It knows the prefixes of items with at least one training interaction.
    """
    known = CatalogTrie(catalog.space, catalog.sids[catalog.popularity > 0])
    return OnlineRecommender.knowing(config, known.packed[2:])


def batches(
    histories: Sequence[Sequence[int]],
    catalog: Catalog,
    window: int,
    recipe: OnlineRecipe,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Yield the batches of one epoch, in random order.

    Each history gives one random window. A batch has windows of similar length.
    """
    crops = [_crop(history, window, rng) for history in histories]
    order = sorted(range(len(crops)), key=lambda at: (len(crops[at]), rng.random()))
    groups: list[list[int]] = [[]]
    for at in order:
        if groups[-1] and (len(groups[-1]) + 1) * len(crops[at]) > recipe.batch_items:
            groups.append([])
        groups[-1].append(at)
    for group in rng.permutation(len(groups)).tolist():
        yield _pad([crops[at] for at in groups[group]], catalog)


def _crop(history: Sequence[int], window: int, rng: np.random.Generator) -> Sequence[int]:
    if len(history) <= window:
        return history
    start = int(rng.integers(len(history) - window + 1))
    return history[start : start + window]


def _pad(histories: Sequence[Sequence[int]], catalog: Catalog) -> Batch:
    lengths = np.array([len(history) for history in histories])
    rows = np.zeros((len(histories), lengths.max()), dtype=np.int64)
    for user, history in enumerate(histories):
        rows[user, : len(history)] = history
    sids = catalog.sids[rows].astype(np.int64)
    return Batch(torch.from_numpy(sids), torch.from_numpy(lengths), torch.from_numpy(rows))


def next_sid_loss(recommender: OnlineRecommender, loss: SidLoss, batch: Batch) -> Tensor:
    """Return the mean of -log P(SID | items before it) over all items, the first included."""
    sids_BHL, lengths_B, _ = batch
    states_BHW = recommender.encode(recommender.embed_items(sids_BHL[:, :-1]))
    real_BH = torch.arange(sids_BHL.shape[1]) < lengths_B.unsqueeze(1)
    return loss(states_BHW[real_BH], pack_sids(sids_BHL[real_BH], recommender.config.sizes))


def validate(
    recommender: OnlineRecommender, catalog: Catalog, users: Sequence[UserSplit]
) -> tuple[float, float]:
    """Return recall@10 and NDCG@10 of the validation targets.

    The whole catalog is ranked, except items of the history.
    """
    finisher = Finisher(fastest_searcher(recommender.eval()), catalog)
    everything = Candidates(catalog.trie)
    row_of = {item: row for row, item in enumerate(catalog.item_ids)}
    ranks = []
    for user in users:
        history, target = [row_of[item] for item in user.train], row_of[user.valid or ""]
        recent = history[window_start(len(history), finisher.window) :]
        seen = set(history) - {target}
        found = finisher.finish(finisher.encode(recent), everything, k=_TOP, exclude=seen)
        ranks += [rank for rank, item in enumerate(found) if item.row == target]
    num = max(len(users), 1)
    return len(ranks) / num, sum(1 / math.log2(rank + 2) for rank in ranks) / num


def cosine_schedule(
    optimizer: torch.optim.Optimizer, warmup: int, total: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Schedule a linear warm-up, then a cosine down to a twentieth at `total` steps."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _log(epoch: int, epochs: int, loss: float, recall: float, started: float) -> None:
    elapsed = time.monotonic() - started
    logger.info(
        "online epoch %d/%d loss %.3f valid recall@10 %.4f  %.0f s, at most %.0f s to go",
        epoch, epochs, loss, recall, elapsed, elapsed / epoch * (epochs - epoch),
    )  # fmt: skip
