"""Train the SASRec baseline: the next item at every position, with full cross-entropy.

Histories, steps, validation users and the choice of epoch are as for the online recommender.
"""

# B = users, H = items of a history, N = catalog rows

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.baselines.sasrec import SasRec, SasRecConfig, save_sasrec
from models.catalog.catalog import Catalog
from models.release.release import Learns, Release
from training.fit import FitRecipe, Scores, fit, refit
from training.history_batches import Step, steps
from training.model_card import sasrec_card
from training.split import Split, UserSplit, sample_users, split_dataset, training_histories
from training.stages import Run
from training.train_online import scores_of

logger = logging.getLogger(__name__)
_TOP, _BATCH_USERS = 10, 256


@dataclass(frozen=True)
class SasRecRecipe:
    """Shape and training settings of SASRec."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    fit: FitRecipe = field(default_factory=FitRecipe)


def sasrec_stage(
    run: Run,
    release_dir: Path,
    out: Path,
    *,
    learns: Learns = Learns.HELD_OUT,
    chosen: Path | None = None,
) -> None:
    """Train on the catalog rows of a release; write model, `metrics.json` and card to `out`.

    Args:
        learns: part of each history.
        chosen: folder of a held-out SASRec, for its number of epochs; None chooses it.
    """
    release, recipe = Release.load(release_dir), SasRecRecipe(fit=FitRecipe(seed=run.recipe.seed))
    split = split_dataset(run.dataset, learns)
    figures = _read_figures(chosen) if chosen else None
    model, metrics = train_sasrec(recipe, release.catalog, split, chosen=figures)
    out.mkdir(parents=True, exist_ok=True)
    save_sasrec(model, out / "model.safetensors", release.catalog.item_ids)
    facts = {
        **metrics,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "learnt": learns.value,
        "data_sha256": run.data_digest,
        "torch": torch.__version__,
        "recipe": asdict(recipe),
    }
    (out / "metrics.json").write_text(json.dumps(facts, indent=1) + "\n")
    (out / "README.md").write_text(sasrec_card(facts))
    logger.info("sasrec: wrote %s, made %s", out, json.dumps(facts))


def _read_figures(folder: Path) -> dict[str, float]:
    """Read the figures of a trained SASRec's best epoch."""
    facts = json.loads((folder / "metrics.json").read_text())
    return {name: facts[name] for name in ("recall@10", "ndcg@10", "epoch")}


def train_sasrec(
    recipe: SasRecRecipe,
    catalog: Catalog,
    split: Split,
    *,
    chosen: Mapping[str, float] | None = None,
) -> tuple[SasRec, dict[str, float]]:
    """Train until the validation NDCG@10 stops rising; return the best weights and figures.

    Args:
        chosen: figures of an earlier training; train for as many epochs, without validation.
    """
    torch.manual_seed(recipe.fit.seed)
    rng = np.random.default_rng(recipe.fit.seed)
    config = SasRecConfig(
        len(catalog), recipe.width, recipe.heads, recipe.layers, dropout=recipe.dropout
    )
    model, histories = SasRec(config), training_histories(catalog, split)
    validation = sample_users(split, recipe.fit.num_validation_users, recipe.fit.seed)

    def losses() -> Iterator[Tensor]:
        users = recipe.fit.batch_users
        for step in steps(histories, catalog, window=config.window, batch_users=users, rng=rng):
            yield next_item_loss(model, step)

    if chosen is not None:
        refit("sasrec", model, recipe.fit, losses, epochs=int(chosen["epoch"]))
        return model, dict(chosen)
    metrics = fit("sasrec", model, recipe.fit, losses, lambda: validate(model, catalog, validation))
    return model, metrics


def next_item_loss(model: SasRec, step: Step) -> Tensor:
    """Return the mean of -log P(item | items before it), over all but each first item."""
    states, targets = [], []
    for batch in step:
        rows_BH = batch.rows_BH
        if rows_BH.shape[1] > 1:
            is_real_BH = batch.is_real()[:, 1:]
            states.append(model(rows_BH[:, :-1])[is_real_BH])
            targets.append(rows_BH[:, 1:][is_real_BH])
    if not states:  # nobody in this step has two items
        return torch.zeros((), requires_grad=True)
    return functional.cross_entropy(model.logits(torch.cat(states)), torch.cat(targets))


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
