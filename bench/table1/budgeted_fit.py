"""Training of a contender within a budget of CPU time, with the recipe of our own models.

Adam at a constant rate, 256 random users a step, the best epoch by NDCG@10 of validation users.
Knows the contract of a contender. Knows nothing of its network.
"""

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch

from bench.table1.contender import Contender, rank_cases
from bench.table1.padded_rows import World, draw_steps
from bench.table1.trial_folder import Progress, TrialFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """Settings of training that all contenders share."""

    try_minutes: float = 2.0  # of CPU time, for each setting
    train_minutes: float = 12.0  # in all, for the setting that was best by then
    step_users: int = 256
    learning_rate: float = 1e-3  # of Adam, constant
    evaluate_every: int = 2  # epochs
    patience: int = 5  # evaluations without improvement before training stops
    num_validation: int = 5000  # users
    seed: int = 0


def train(
    name: str,
    contender: Contender,
    world: World,
    folder: TrialFolder,
    progress: Progress,
    budget: Budget,
    *,
    minutes: float,
) -> Progress:
    """Train on until NDCG@10 has stopped rising or `minutes` of CPU time are spent, in all.

    An epoch draws from its own seed, so that a trial that was stopped goes on as if it had not.
    """
    adam = torch.optim.Adam(contender.net.parameters(), lr=budget.learning_rate)
    if progress.epoch:
        folder.load_state(contender.net, adam)
    while not progress.is_finished and progress.seconds < 60 * minutes:
        started = time.process_time()
        for _ in range(budget.evaluate_every):
            progress.epoch += 1
            loss = _run_epoch(contender, adam, world, budget, progress.epoch)
        found = rank_cases(contender, world, world.validation)
        progress.seconds += time.process_time() - started
        if found.ndcg > progress.ndcg:
            progress.best_epoch = progress.epoch
            progress.recall, progress.ndcg = found.recall, found.ndcg
        behind = progress.epoch - progress.best_epoch
        progress.is_finished = behind >= budget.patience * budget.evaluate_every
        folder.save(progress, contender.net, adam)
        logger.info(
            "%s epoch %d loss %.3f valid recall@10 %.4f ndcg@10 %.4f  %.0f s",
            name, progress.epoch, loss, found.recall, found.ndcg, progress.seconds,
        )  # fmt: skip
    return progress


def _run_epoch(
    contender: Contender, adam: torch.optim.Adam, world: World, budget: Budget, epoch: int
) -> float:
    """Take one step for each 256 users; return the mean loss of a step."""
    contender.net.train()
    torch.manual_seed(budget.seed * 100_003 + epoch)
    rng = np.random.default_rng((budget.seed, epoch))
    losses = []
    for groups in draw_steps(world.training, step_users=budget.step_users, rng=rng):
        found = [contender.loss(group) for group in groups]
        num_targets = sum(loss.num_targets for loss in found)
        mean = torch.stack([loss.mean * (loss.num_targets / num_targets) for loss in found]).sum()
        adam.zero_grad()
        torch.autograd.backward(mean)
        adam.step()
        losses.append(mean.item())
    return float(np.mean(losses))
