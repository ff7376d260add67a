"""Train SASRec, the teacher and a baseline: the next item at every position, full cross-entropy.

Histories, steps, validation users and the choice of epoch are as for the online recommender.
"""

# B = users, H = items of a history, N = catalog rows

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.baselines.sasrec import SasRec, SasRecConfig
from models.catalog.catalog import Catalog
from training.checkpoint import Checkpoint
from training.fit import fit, refit
from training.history_batches import Step, steps, weights_of
from training.online_recipes import FitRecipe, SasRecRecipe
from training.scores import Scores, scores_of
from training.split import Split, UserSplit, sample_users, training_histories

_TOP, _BATCH_USERS = 10, 256


def train_sasrec(
    recipe: SasRecRecipe,
    settings: FitRecipe,
    catalog: Catalog,
    split: Split,
    *,
    window: int = 50,
    chosen: Mapping[str, float] | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[SasRec, dict[str, float]]:
    """Train until the validation NDCG@10 stops rising; return the best weights and figures.

    Args:
        window: newest items of a history that are read.
        chosen: figures of an earlier training; train for as many epochs, without validation.
        checkpoint: written after every epoch; the training continues from it.
    """
    torch.manual_seed(settings.seed)
    config = SasRecConfig(
        len(catalog), recipe.width, recipe.heads, recipe.layers, window, recipe.dropout
    )
    model, histories = SasRec(config), training_histories(catalog, split)
    validation = sample_users(split, settings.num_validation_users, settings.seed)
    weights = split.weights

    def losses(epoch: int) -> Iterator[Tensor]:
        rng, users = np.random.default_rng([settings.seed, epoch]), settings.batch_users
        for step in steps(
            histories, catalog, window=window, batch_users=users, rng=rng, weights=weights
        ):
            yield next_item_loss(model, step)

    if chosen is not None:
        epochs = int(chosen["epoch"])
        refit("sasrec", model, settings, losses, epochs=epochs, checkpoint=checkpoint)
        return model, dict(chosen)
    metrics = fit(
        "sasrec",
        model,
        settings,
        losses,
        lambda: validate(model, catalog, validation),
        checkpoint=checkpoint,
    )
    return model, metrics


def next_item_loss(model: SasRec, step: Step) -> Tensor:
    """Return the weighted mean of -log P(item | items before it), over all but each first item."""
    longer = [batch for batch in step if batch.rows_BH.shape[1] > 1]
    learnt = [batch.is_learnt()[:, 1:] for batch in longer]
    if not any(is_learnt_BH.any() for is_learnt_BH in learnt):  # nobody has a second item to learn
        return torch.zeros((), requires_grad=True)
    pairs = list(zip(longer, learnt, strict=True))
    states_NW = torch.cat([model(batch.rows_BH[:, :-1])[chosen] for batch, chosen in pairs])
    targets_N = torch.cat([batch.rows_BH[:, 1:][chosen] for batch, chosen in pairs])
    weights_N = weights_of(tuple(longer), learnt)
    if weights_N is None:
        return functional.cross_entropy(model.logits(states_NW), targets_N)
    loss_N = functional.cross_entropy(model.logits(states_NW), targets_N, reduction="none")
    return loss_N @ weights_N / weights_N.sum()


@torch.no_grad()
def validate(model: SasRec, catalog: Catalog, users: Sequence[UserSplit]) -> Scores:
    """Rank the validation targets in the whole catalog, without items of the history."""
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
    return scores_of([rank for rank in ranks if rank < _TOP], num_users=len(users))
