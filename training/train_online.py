"""Train the online recommender to predict the next SID at every position of a history.

The best epoch is chosen by the validation targets of a fixed sample of users. They are ranked with
the memory beside the model, as in service: its best epoch alone comes later, and is too sure of
itself for a sum with the memory. Test targets are never seen here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.baselines.sasrec import SasRec
from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog
from models.catalog.trie import CatalogTrie
from models.online.finish import Finisher
from models.online.history_cache import window_start
from models.online.memory.memory import Memory
from models.online.memory.neighbours import Neighbours
from models.online.recommender import OnlineRecommender, pack_sids
from models.online.shape import RecommenderConfig
from models.online.torch_runtime import fastest_searcher
from training.checkpoint import Checkpoint
from training.fit import Losses, fit, refit
from training.history_batches import Step, steps, weights_of
from training.online_recipes import FitRecipe, TeacherRecipe
from training.scores import Scores, scores_of
from training.sid_loss import SidLoss
from training.split import Split, UserSplit, sample_users, training_histories
from training.teacher import TeacherLoss

_TOP = 10


class OnlineResult(NamedTuple):
    recommender: OnlineRecommender
    metrics: dict[str, float]

    def report(self) -> dict[str, float]:
        """Return the metrics and the number of parameters."""
        weights = self.recommender.parameters()
        return {**self.metrics, "parameters": sum(weight.numel() for weight in weights)}


class Teacher(NamedTuple):
    """A trained teacher and how much is learnt from it."""

    model: SasRec  # over the rows of the same catalog
    recipe: TeacherRecipe


def train_online(
    config: RecommenderConfig,
    recipe: FitRecipe,
    catalog: Catalog,
    split: Split,
    memory: Memory,
    *,
    teacher: Teacher | None = None,
    chosen: Mapping[str, float] | None = None,
    checkpoint: Checkpoint | None = None,
) -> OnlineResult:
    """Train until the validation NDCG@10 stops rising; return the best weights.

    Args:
        memory: of the histories of the split.
        teacher: trained on the same split; None learns from the histories alone.
        chosen: metrics of an earlier training; train for as many epochs, without validation.
        checkpoint: written after every epoch; the training continues from it.
    """
    torch.manual_seed(recipe.seed)
    recommender = new_recommender(config, catalog)
    losses = _losses(recommender, recipe, catalog, split, teacher)
    if chosen is not None:
        epochs = int(chosen["epoch"])
        refit("online", recommender, recipe, losses, epochs=epochs, checkpoint=checkpoint)
        return OnlineResult(recommender, dict(chosen))
    validation = sample_users(split, recipe.num_validation_users, recipe.seed)
    neighbours = memory.neighbours()
    metrics = fit(
        "online",
        recommender,
        recipe,
        losses,
        lambda: validate(recommender, catalog, validation, neighbours),
        checkpoint=checkpoint,
    )
    alone = validate(recommender, catalog, validation)
    figures = {"recall@10_no_memory": alone.recall, "ndcg@10_no_memory": alone.ndcg}
    return OnlineResult(recommender, metrics | figures)


def _losses(
    recommender: OnlineRecommender,
    recipe: FitRecipe,
    catalog: Catalog,
    split: Split,
    teacher: Teacher | None,
) -> Losses:
    histories, window = training_histories(catalog, split), recommender.config.window
    sid_loss, weights = SidLoss(recommender, catalog.trie), split.weights
    share = 0.0 if teacher is None else teacher.recipe.share
    teacher_loss = teacher and TeacherLoss(
        teacher.model, recommender, catalog, teacher.recipe.positions
    )

    def losses(epoch: int) -> Iterator[Tensor]:
        rng, users = np.random.default_rng([recipe.seed, epoch]), recipe.batch_users
        for step in steps(
            histories, catalog, window=window, batch_users=users, rng=rng, weights=weights
        ):
            states = encode_before(recommender, step)
            loss = next_sid_loss(sid_loss, step, states, recommender.config.sizes)
            if teacher_loss is not None:
                loss = (1 - share) * loss + share * teacher_loss(step, states)
            yield loss

    return losses


def new_recommender(config: RecommenderConfig, catalog: Catalog) -> OnlineRecommender:
    """Create an untrained recommender; seed torch first.

    It knows the prefixes of items with at least one training interaction.
    """
    known = CatalogTrie(catalog.space, catalog.sids[catalog.popularity > 0])
    return OnlineRecommender.knowing(config, known.packed[2:])


def encode_before(recommender: OnlineRecommender, step: Step) -> list[Tensor]:
    """Encode the history before each item of each batch: (B, H, W) a batch."""
    return [recommender.encode(recommender.embed_items(batch.sids_BHL[:, :-1])) for batch in step]


def next_sid_loss(
    loss: SidLoss, step: Step, states: Sequence[Tensor], sizes: Sequence[int]
) -> Tensor:
    """Return the weighted mean of -log P(SID | items before it), the first items included.

    states: of `encode_before`. sizes: of the codebooks.
    """
    learnt = [batch.is_learnt() for batch in step]
    states_NW = torch.cat([rows[chosen] for rows, chosen in zip(states, learnt, strict=True)])
    targets = [batch.sids_BHL[chosen] for batch, chosen in zip(step, learnt, strict=True)]
    return loss(states_NW, pack_sids(torch.cat(targets), sizes), weights_of(step, learnt))


def validate(
    recommender: OnlineRecommender,
    catalog: Catalog,
    users: Sequence[UserSplit],
    neighbours: Neighbours | None = None,
) -> Scores:
    """Rank the validation targets in the whole catalog, without items of the history.

    neighbours: the memory; None ranks without it.
    """
    finisher = Finisher(fastest_searcher(recommender.eval()), catalog, neighbours)
    everything = Candidates(catalog.trie)
    row_of = {item: row for row, item in enumerate(catalog.item_ids)}
    ranks = []
    for user in users:
        history, target = [row_of[item] for item in user.train], row_of[user.valid or ""]
        recent = history[window_start(len(history), finisher.window) :]
        seen = set(history) - {target}
        found = finisher.finish(finisher.encode(recent), everything, k=_TOP, exclude=seen)
        ranks += [rank for rank, item in enumerate(found) if item.row == target]
    return scores_of(ranks, num_users=len(users))
