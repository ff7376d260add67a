"""Reasoning Enhancement: GRPO on thoughts, rewarded by the beam that follows them (4.3, A.3.3).

A prompt is a training history without its last item, the target. A rollout uses the engine and the
beam of the night. Only the thought's tokens are trained; an unclosed thought has reward 0.
"""

# P = prompts of a step, G = thoughts per prompt, R = P x G, S = tokens of prompt and thought,
# T = tokens of a thought, N = labelled tokens

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from training.language import precision, token_losses
from training.learner import Learner, plain_model
from training.processes import processes
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

    @classmethod
    def join(cls, parts: Sequence["Rollouts"]) -> "Rollouts":
        """Return the rollouts of all parts, in order."""
        return cls(
            [row for part in parts for row in part.rows],
            [found for part in parts for found in part.beams],
            [target for part in parts for target in part.targets],
            [reward for part in parts for reward in part.set_rewards],
        )


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
    weights = {n: w for n, w in learner.model.named_parameters() if w.requires_grad}
    reference = Reference(weights)
    trainer = _Trainer(learner, catalog, recipe, max_tokens, reference, seed)
    usable = [list(history) for history in histories if len(history) >= 2]
    steps = list(_steps(len(usable), recipe, seed))
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
            is_due = time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS
            if checkpoint and is_due and processes().is_first:
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


class Reference:
    """First values of the trained weights: the reference is the same model with them in place.

    With LoRA this is the adapter and the token rows, not another copy of the base.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = list(weights.values())
        self._others = [value.detach().clone() for value in self._weights]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block, the model is the reference."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for at, weight in enumerate(self._weights):
            weight.data, self._others[at] = self._others[at], weight.data


class _Trainer:
    """Policy, reference and beam of one run."""

    def __init__(
        self,
        learner: Learner,
        catalog: Catalog,
        recipe: EnhanceRecipe,
        max_tokens: int,
        reference: Reference,
        seed: int,
    ) -> None:
        # Sample from the whole policy: nucleus sampling would differ from the scored distribution.
        sampling = Sampling(
            recipe.temperature, top_p=1.0, top_k=len(learner.tokenizer), max_tokens=max_tokens
        )
        self._model = learner.model
        self._reference = reference
        self._hardware = learner.hardware
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
        """Sample rollouts, compute rewards, update; return the last loss and the sampled tokens.

        Several processes take a part of the histories each.
        """
        seeds = [(self._seed << 32) + progress.step * 4096 + at for at in range(len(histories))]
        own = processes()
        rollouts = self._roll_out(own.share(histories), own.share(seeds))
        rewards = {name: _rewards(rollouts, name) for name in REWARDS}
        if self._recipe.reward == SET_REWARD:
            of_set = torch.tensor(rollouts.set_rewards)
            rewards[SET_REWARD] = of_set.reshape(-1, self._recipe.group)
        means = _means(rollouts, rewards)
        num_tokens = float(sum(len(row.ids) - row.num_context for row in rollouts.rows))
        values = torch.tensor(
            [num_tokens, *(len(rollouts.targets) / len(histories) * one for one in means.values())],
            dtype=torch.float64,
            device=self._model.device if own.num > 1 else "cpu",
        )
        own.add_up([values])
        for name, value in zip(means, values[1:].tolist(), strict=True):
            progress.add(name, value)
        advantage_R = group_advantages(rewards[self._recipe.reward]).flatten()
        num_rows = len(histories) * self._recipe.group
        loss = self._update(rollouts.rows, advantage_R, num_rows, weights, optimizer)
        return loss, int(values[0])

    def _roll_out(self, histories: Sequence[Sequence[int]], seeds: Sequence[int]) -> Rollouts:
        """Sample in the precision in which thoughts are scored, some prompts at a time."""
        num = self._hardware.rollout_prompts or len(histories)
        self._model.eval()
        parts = []
        for at in range(0, len(histories), num):
            chosen, own = histories[at : at + num], seeds[at : at + num]
            with precision(self._model):
                parts.append(roll_out(self._reasoner, self._catalog, chosen, self._recipe, own))
        return Rollouts.join(parts)

    def _update(
        self,
        rows: Sequence[Row],
        advantage_R: Tensor,
        num_rows: int,
        weights: dict[str, Any],
        optimizer: torch.optim.Optimizer,
    ) -> float:
        """Update on this process's rows; `num_rows` counts the rows of all processes."""
        size = self._recipe.micro_rows
        if self._hardware.micro_tokens and rows:
            longest = max(len(row.ids) for row in rows)
            size = min(size, max(1, self._hardware.micro_tokens // longest))
        parts = [
            (rows[at : at + size], advantage_R[at : at + size]) for at in range(0, len(rows), size)
        ]
        old: list[Tensor] = []
        with torch.no_grad():
            if self._recipe.updates > 1:  # a single update starts from the sampling policy itself
                old = [token_logprobs(self._model, part)[0] for part, _ in parts]
            with self._reference.in_place():
                reference = [token_logprobs(self._model, part)[0] for part, _ in parts]
        self._model.train()
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
                ) * (len(part) / num_rows)
                torch.autograd.backward(loss)
                total += loss.item()
            processes().add_gradients(weights.values())
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
        self._model.eval()
        of_all = torch.tensor([total], device=self._model.device)
        processes().add_up([of_all])
        return of_all.item()


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
    with precision(model):
        logp_N = -token_losses(model, batch)
    count_R = torch.tensor([len(row.ids) - row.num_context for row in rows], device=logp_N.device)
    is_token_RT = torch.arange(int(count_R.max()), device=logp_N.device) < count_R.unsqueeze(1)
    logp_RT = torch.zeros(is_token_RT.shape, device=logp_N.device)
    return logp_RT.masked_scatter(is_token_RT, logp_N), is_token_RT


def _rewards(rollouts: Rollouts, name: str) -> Tensor:
    """Return the rewards (P, G)."""
    group = len(rollouts.beams) // max(len(rollouts.targets), 1)
    rewards = [
        reward_of(REWARDS[name], beams, rollouts.targets[at // group])
        for at, beams in enumerate(rollouts.beams)
    ]
    return torch.tensor(rewards).reshape(-1, max(group, 1))


def _means(rollouts: Rollouts, rewards: Mapping[str, Tensor]) -> dict[str, float]:
    """Return means over the rollouts, by name of the series; 0 without any."""
    found = {}
    for name, reward_PG in rewards.items():
        found[f"reward/{name}"] = float(reward_PG.mean()) if len(reward_PG) else 0.0
        found[f"flat/{name}"] = zero_variance_share(reward_PG) if len(reward_PG) else 0.0
    closed = [bool(beams) for beams in rollouts.beams]
    return {**found, "closed": float(np.mean(closed)) if closed else 0.0}


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
