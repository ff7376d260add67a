"""Reasoning Enhancement: GRPO on thoughts, rewarded by the beam that follows them (4.3, A.3.3).

A prompt is a training history without its last item, the target. A rollout uses the engine and the
beam of the night. Only the thought's tokens are trained; an unclosed thought has reward 0.
"""

# P = prompts of a step, G = thoughts per prompt, R = P x G, S = tokens of prompt and thought,
# T = tokens of a thought, N = labelled tokens

import copy
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.catalog.catalog import Catalog
from models.catalog.sid import Sid
from models.errors import InvalidSettings
from models.reasoner.beam import Beam, beam_search
from models.reasoner.think import render_history
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from training.batching import Row, pad_rows
from training.checkpoint import Checkpoint, Progress
from training.grpo import group_advantages, grpo_loss, zero_variance_share
from training.language import autocast, labelled_logits
from training.learner import Learner, plain_model
from training.progress import StageBar
from training.reasoner_recipes import EnhanceRecipe
from training.reward import REWARDS, reward_of
from training.set_reward import SET_REWARD, set_rewards

_SECONDS_BETWEEN_CHECKPOINTS = 120.0


class Rollouts(NamedTuple):
    """Rollouts of one step."""

    rows: list[Row]  # R rows: prompt and thought, G per prompt
    beams: list[list[Beam]]  # R lists: the beams after each thought, empty if it is unclosed
    targets: list[Sid]  # P targets
    set_rewards: list[float]  # R rewards by `training.set_reward`; empty unless the recipe asks


def enhance(
    learner: Learner,
    catalog: Catalog,
    histories: Sequence[Sequence[int]],
    recipe: EnhanceRecipe,
    max_tokens: int,
    checkpoint: Checkpoint | None = None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Train in place; a killed run continues from its checkpoint.

    Returns:
        Steps and tokens. Under every reward: the mean early and late, and the share of groups
        with equal rewards, which teach nothing.

    Raises:
        InvalidSettings: the reward is unknown.
    """
    if recipe.reward not in (known := [*REWARDS, SET_REWARD]):
        raise InvalidSettings(
            f"[enhance] reward = {recipe.reward!r}, expected among {sorted(known)}"
        )
    trainer = _Trainer(learner, catalog, recipe, max_tokens, seed)
    usable = [list(history) for history in histories if len(history) >= 2]
    steps = list(_steps(len(usable), recipe, seed))
    weights = {n: w for n, w in learner.model.named_parameters() if w.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=recipe.learning_rate, weight_decay=0.0)
    progress = (checkpoint and checkpoint.resume(weights, optimizer)) or Progress()
    saved = time.monotonic()
    with StageBar("enhance", len(steps), done=progress.step) as bar:
        for chosen in steps[progress.step :]:
            started = time.monotonic()
            loss, num_tokens = trainer.step(
                [usable[at] for at in chosen], progress, weights, optimizer
            )
            progress.step += 1
            progress.num_tokens += num_tokens
            progress.seconds += time.monotonic() - started
            bar.step(progress.step, loss=loss, num_tokens=num_tokens)
            if checkpoint and time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                checkpoint.save(weights, optimizer, progress)
                saved = time.monotonic()
    return _report(progress)


def _steps(num_histories: int, recipe: EnhanceRecipe, seed: int) -> Iterator[list[int]]:
    """Yield the indices of the histories of each step, over all epochs or up to `max_steps`."""
    num = 0
    for epoch in range(recipe.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(num_histories).tolist()
        for start in range(0, num_histories, recipe.prompts):
            if num == recipe.max_steps:
                return
            num += 1
            yield order[start : start + recipe.prompts]


class _Trainer:
    """Policy, reference and beam of one run."""

    def __init__(
        self, learner: Learner, catalog: Catalog, recipe: EnhanceRecipe, max_tokens: int, seed: int
    ) -> None:
        # Sample from the whole policy: nucleus sampling would differ from the scored distribution.
        sampling = Sampling(
            recipe.temperature, top_p=1.0, top_k=len(learner.tokenizer), max_tokens=max_tokens
        )
        self._model = learner.model
        self._reference = copy.deepcopy(plain_model(learner.model)).requires_grad_(False)
        self._reasoner = TransformersReasoner(
            plain_model(learner.model), learner.tokenizer, catalog.space, sampling
        )
        self._catalog, self._recipe, self._seed = catalog, recipe, seed

    def step(
        self,
        histories: Sequence[Sequence[int]],
        progress: Progress,
        weights: dict[str, Any],
        optimizer: torch.optim.Optimizer,
    ) -> tuple[float, int]:
        """Sample rollouts, compute rewards, update; return the last loss and the sampled tokens."""
        seeds = [(self._seed << 32) + progress.step * 4096 + at for at in range(len(histories))]
        rollouts = roll_out(self._reasoner, self._catalog, histories, self._recipe, seeds)
        rewards = {name: _rewards(rollouts, name) for name in REWARDS}
        if rollouts.set_rewards:
            rewards[SET_REWARD] = torch.tensor(rollouts.set_rewards).reshape(len(histories), -1)
        for name, reward_PG in rewards.items():
            progress.add(f"reward/{name}", float(reward_PG.mean()))
            progress.add(f"flat/{name}", zero_variance_share(reward_PG))
        progress.add("closed", float(np.mean([bool(beams) for beams in rollouts.beams])))
        advantage_R = group_advantages(rewards[self._recipe.reward]).flatten()
        loss = self._update(rollouts.rows, advantage_R, weights, optimizer)
        return loss, sum(len(row.ids) - row.num_context for row in rollouts.rows)

    def _update(
        self,
        rows: Sequence[Row],
        advantage_R: Tensor,
        weights: dict[str, Any],
        optimizer: torch.optim.Optimizer,
    ) -> float:
        size = self._recipe.micro_rows
        parts = [
            (rows[at : at + size], advantage_R[at : at + size]) for at in range(0, len(rows), size)
        ]
        old: list[Tensor] = []
        with torch.no_grad():
            if self._recipe.updates > 1:  # a single update starts from the sampling policy itself
                old = [token_logprobs(self._model, part)[0] for part, _ in parts]
            reference = [token_logprobs(self._reference, part)[0] for part, _ in parts]
        total = 0.0
        for _ in range(self._recipe.updates):
            optimizer.zero_grad()
            total = 0.0
            for at, (part, advantage) in enumerate(parts):
                logp_RT, is_token_RT = token_logprobs(self._model, part)
                loss = grpo_loss(
                    logp_RT,
                    old[at] if self._recipe.updates > 1 else logp_RT.detach(),
                    reference[at],
                    advantage.to(logp_RT.device),
                    is_token_RT,
                    clip=self._recipe.clip,
                    kl_weight=self._recipe.kl_weight,
                ) * (len(part) / len(rows))
                torch.autograd.backward(loss)
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
        return total


def roll_out(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    histories: Sequence[Sequence[int]],
    recipe: EnhanceRecipe,
    seeds: Sequence[int],
) -> Rollouts:
    """Sample G thoughts per history without its last item, and the best SIDs after each (Eq. 7).

    All beams of a level run in one pass.
    """
    asked = [render_history(catalog, history[:-1]) for history in histories]
    thoughts = reasoner.think(asked, paths=recipe.group, seeds=seeds)
    depth = catalog.space.levels
    found = iter(beam_search(thoughts.scorer(), catalog.trie, depth=depth, width=recipe.beams))
    contexts = [reasoner.tokenizer.encode(text, add_special_tokens=False) for text in asked]
    rows = [
        Row(contexts[at // recipe.group] + path, len(contexts[at // recipe.group]))
        for at, path in enumerate(thoughts.sampled)
    ]
    beams = [next(found) if path[-1] == reasoner.think_end else [] for path in thoughts.sampled]
    targets = [tuple(catalog.sids[history[-1]].tolist()) for history in histories]
    of_set: list[float] = []
    if recipe.reward == SET_REWARD:
        of_set = set_rewards(reasoner, catalog, thoughts, asked, targets, recipe)
    return Rollouts(rows, beams, targets, of_set)


def token_logprobs(model: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of the tokens after each row's context.

    Returns:
        float32 (R, T), and a bool mask (R, T) that is False for padding.
    """
    batch = pad_rows(rows)
    with autocast(model.device):
        logits_NV, wanted_N = labelled_logits(model, batch)
    logp_N = logits_NV.log_softmax(dim=-1).gather(1, wanted_N.unsqueeze(1)).squeeze(1)
    count_R = torch.tensor([len(row.ids) - row.num_context for row in rows], device=logp_N.device)
    is_token_RT = torch.arange(int(count_R.max()), device=logp_N.device) < count_R.unsqueeze(1)
    logp_RT = torch.zeros(is_token_RT.shape, device=logp_N.device)
    return logp_RT.masked_scatter(is_token_RT, logp_N), is_token_RT


def _rewards(rollouts: Rollouts, name: str) -> Tensor:
    """Return the rewards (P, G)."""
    group = len(rollouts.beams) // len(rollouts.targets)
    rewards = [
        reward_of(REWARDS[name], beams, rollouts.targets[at // group])
        for at, beams in enumerate(rollouts.beams)
    ]
    return torch.tensor(rewards).reshape(-1, group)


def _report(progress: Progress) -> dict[str, Any]:
    """Summarise the run. Early and late are the first and the last tenth of the steps."""
    tenth = max(1, progress.step // 10)

    def mean(values: Sequence[float]) -> float:
        return round(sum(values) / max(len(values), 1), 4)

    kept = progress.series
    names = [name.removeprefix("reward/") for name in kept if name.startswith("reward/")]
    return {
        "steps": progress.step,
        "tokens": progress.num_tokens,
        "seconds": round(progress.seconds, 1),
        "closed": mean(kept.get("closed", [])),
        "reward_early": {name: mean(kept.get(f"reward/{name}", [])[:tenth]) for name in names},
        "reward_late": {name: mean(kept.get(f"reward/{name}", [])[-tenth:]) for name in names},
        "zero_variance_groups": {name: mean(kept.get(f"flat/{name}", [])) for name in names},
    }
