"""Reasoning Enhancement: rewards and loss against plain arithmetic, rollouts against the night."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.catalog.catalog import Catalog
from models.errors import InvalidSettings
from models.reasoner.beam import Beam, beam_search
from models.reasoner.think import render_history
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from tests.fakes.toy import toy_catalog, toy_histories
from tests.fakes.toy_reasoner import write_toy_reasoner
from training import enhance as module
from training.checkpoint import Checkpoint
from training.enhance import enhance, roll_out, token_logprobs
from training.grpo import group_advantages, grpo_loss, zero_variance_share
from training.learner import Learner, new_learner
from training.reasoner_recipes import EnhanceRecipe, NanoConfig, ReasonerRecipe
from training.reward import REWARDS, reward_of

SMALL = EnhanceRecipe(group=4, beams=6, prompts=3, learning_rate=1e-3, max_steps=3, micro_rows=5)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


@pytest.fixture(scope="module")
def histories(catalog: Catalog) -> list[list[int]]:
    return [rows for rows in toy_histories(catalog, num_users=12, seed=3) if len(rows) > 1]


@pytest.fixture(scope="module")
def base(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> ReasonerRecipe:
    directory = tmp_path_factory.mktemp("reasoner")
    write_toy_reasoner(catalog, directory)
    return ReasonerRecipe(base=str(directory))


@pytest.fixture
def learner(base: ReasonerRecipe, catalog: Catalog) -> Learner:
    return new_learner(base, NanoConfig(), catalog.space, [], seed=0)


def by_hand(name: str, beams: list[tuple[int, ...]], target: tuple[int, ...]) -> float:
    """Eq. 6 and its rivals as loops over codes."""
    if name == "rollout-beam":
        return max(sum(a == b for a, b in zip(beam, target, strict=True)) for beam in beams)
    if name == "exact-hit":
        return float(target in beams)
    if name == "top-hit":
        return float(beams[0] == target)
    if name == "hit-diversity":
        return (target in beams) * len({beam[0] for beam in beams}) / len(beams)
    judged = beams[:1] if name == "prefix" else beams
    depths = [max(n for n in range(4) if beam[:n] == target[:n]) for beam in judged]
    return [0, 0.25, 0.5, 1][max(depths)]


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_equals_its_definition(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        beams = [tuple(row) for row in rng.integers(3, size=(rng.integers(1, 6), 3)).tolist()]
        target = tuple(rng.integers(3, size=3).tolist())
        found = reward_of(REWARDS[name], [Beam(codes, 0.0) for codes in beams], target)
        assert found == pytest.approx(by_hand(name, beams, target))


def test_codes_count_place_by_place_even_behind_a_wrong_one() -> None:
    beams = [Beam((9, 2, 3), 0.0), Beam((1, 9, 9), -1.0)]
    assert reward_of(REWARDS["rollout-beam"], beams, (1, 2, 3)) == 2
    assert reward_of(REWARDS["prefix-weighted"], beams, (1, 2, 3)) == 0.25
    assert reward_of(REWARDS["rollout-beam"], [], (1, 2, 3)) == 0


def test_advantages_have_mean_zero_and_spread_one_and_flat_groups_have_none() -> None:
    rewards = torch.tensor([[0.0, 1.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    advantages = group_advantages(rewards)
    assert advantages[0].mean().item() == pytest.approx(0, abs=1e-6)
    assert advantages[0].std().item() == pytest.approx(1)
    assert advantages[1].tolist() == [0, 0, 0, 0]
    assert zero_variance_share(rewards) == 0.5


def loss_by_hand(
    logp: list[list[float]],
    old: list[list[float]],
    reference: list[list[float]],
    advantages: list[float],
    lengths: list[int],
) -> float:
    """The clipped surrogate and the KL estimate in Python's own float64."""
    total = 0.0
    for row, length in enumerate(lengths):
        of_row = 0.0
        for at in range(length):
            ratio = math.exp(logp[row][at] - old[row][at])
            clipped = min(max(ratio, 0.8), 1.2)
            off = reference[row][at] - logp[row][at]
            gain = min(ratio * advantages[row], clipped * advantages[row])
            of_row += 0.001 * (math.exp(off) - off - 1) - gain
        total += of_row / length
    return total / len(lengths)


def test_the_loss_equals_a_computation_by_hand_and_so_does_its_gradient() -> None:
    made = torch.Generator().manual_seed(0)
    shape, lengths = (6, 9), [9, 1, 4, 7, 2, 9]
    logp, old, reference = (
        -3 * torch.rand(shape, generator=made, dtype=torch.float64) for _ in range(3)
    )
    advantages = torch.tensor([1.5, -0.5, 0.0, -2.0, 0.3, 1.0], dtype=torch.float64)
    is_token = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(1)

    def loss(policy: torch.Tensor) -> torch.Tensor:
        return grpo_loss(policy, old, reference, advantages, is_token, clip=0.2, kl_weight=0.001)

    by_hand = loss_by_hand(
        logp.tolist(), old.tolist(), reference.tolist(), advantages.tolist(), lengths
    )
    assert loss(logp).item() == pytest.approx(by_hand, rel=1e-12)
    policy = logp.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, policy)
    torch.autograd.backward(loss(policy))
    assert policy.grad is not None
    assert policy.grad[~is_token].abs().max() == 0


def test_a_ratio_beyond_the_clip_pulls_no_further() -> None:
    """Up for a good thought, down for a bad one; back is always allowed."""

    def pull(ratio: float, advantage: float) -> float:
        policy = torch.tensor([[math.log(ratio)]], requires_grad=True)
        zero, one = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
        loss = grpo_loss(
            policy, zero, zero, torch.tensor([advantage]), one, clip=0.2, kl_weight=0.0
        )
        torch.autograd.backward(loss)
        assert policy.grad is not None
        return policy.grad.item()

    assert pull(1.3, 1.0) == pull(0.7, -1.0) == 0
    assert pull(1.1, 1.0) < 0 < pull(0.9, -1.0)
    assert pull(0.7, 1.0) < 0 < pull(1.3, -1.0)


def test_logprobs_are_those_of_the_plain_model(
    learner: Learner, catalog: Catalog, histories: list[list[int]]
) -> None:
    reasoner = thinker(learner, catalog)
    rows = roll_out(reasoner, catalog, histories[:3], SMALL, [1, 2, 3]).rows
    with torch.no_grad():
        found, is_token = token_logprobs(learner.model, rows)
        for at, row in enumerate(rows):
            logits = learner.model(input_ids=torch.tensor([row.ids])).logits[0, :-1]
            every = logits.log_softmax(dim=-1).gather(1, torch.tensor(row.ids[1:]).unsqueeze(1))
            expected = every[row.num_context - 1 :, 0]
            assert int(is_token[at].sum()) == len(expected)
            torch.testing.assert_close(
                found[at, : len(expected)], expected, rtol=0.1, atol=0.1
            )  # the policy is computed in bfloat16


def thinker(learner: Learner, catalog: Catalog) -> TransformersReasoner:
    sampling = Sampling(top_p=1.0, top_k=len(learner.tokenizer), max_tokens=20)
    return TransformersReasoner(learner.model, learner.tokenizer, catalog.space, sampling)


def test_a_rollout_is_what_the_night_does(
    learner: Learner, catalog: Catalog, histories: list[list[int]]
) -> None:
    """Both sample equal thoughts, and search an equal beam to whole SIDs after each closed one."""
    reasoner = thinker(learner, catalog)
    asked = [render_history(catalog, history[:-1]) for history in histories]
    seeds = list(range(len(asked)))
    thoughts = reasoner.think(asked, paths=4, seeds=seeds)
    expected = beam_search(thoughts.scorer(), catalog.trie, depth=3, width=6)
    rollouts = roll_out(reasoner, catalog, histories, SMALL, seeds)
    closed = [beams for beams in rollouts.beams if beams]
    assert closed == expected
    assert 0 < len(closed) < len(rollouts.beams) == 4 * len(histories)
    assert rollouts.targets == [tuple(catalog.sids[rows[-1]].tolist()) for rows in histories]
    for at, row in enumerate(rollouts.rows):
        text = str(learner.tokenizer.decode(row.ids))
        assert text.startswith(asked[at // 4])
        assert text.endswith("</think>") == bool(rollouts.beams[at])


def test_good_thoughts_become_likelier_than_bad_ones(
    learner: Learner, catalog: Catalog, histories: list[list[int]]
) -> None:
    recipe = EnhanceRecipe(
        group=8, beams=2, prompts=len(histories), learning_rate=3e-3, max_steps=1
    )
    reasoner = thinker(learner, catalog)
    rollouts = roll_out(reasoner, catalog, histories, recipe, list(range(len(histories))))
    rewards = torch.tensor(
        [
            reward_of(REWARDS["rollout-beam"], beams, rollouts.targets[at // 8])
            for at, beams in enumerate(rollouts.beams)
        ]
    ).reshape(-1, 8)
    advantages = group_advantages(rewards).flatten()
    assert advantages.abs().max() > 0

    def preference() -> float:
        with torch.no_grad():
            logp, is_token = token_logprobs(learner.model, rollouts.rows)
        return float((advantages * logp.sum(dim=1) / is_token.sum(dim=1)).sum())

    before = preference()
    order = np.random.default_rng([0, 0]).permutation(len(histories)).tolist()
    inverse = [order.index(at) for at in range(len(histories))]
    enhance(learner, catalog, [histories[at] for at in inverse], recipe, 20, seed=0)
    assert preference() > before


def test_the_report_counts_groups_that_teach_nothing_under_every_reward(
    learner: Learner, catalog: Catalog, histories: list[list[int]]
) -> None:
    made = enhance(learner, catalog, histories, SMALL, 20, seed=0)
    assert made["steps"] == 3
    assert made["tokens"] > 0
    shares = made["zero_variance_groups"]
    assert set(shares) == set(made["reward_late"]) == set(REWARDS)
    assert shares["rollout-beam"] <= shares["exact-hit"]
    two_epochs = EnhanceRecipe(group=2, beams=2, prompts=9, epochs=2)
    again = enhance(learner, catalog, histories, two_epochs, 8, seed=0)
    assert again["steps"] == 2 * math.ceil(len(histories) / 9)


def test_a_killed_run_goes_on_to_the_same_weights(
    base: ReasonerRecipe,
    catalog: Catalog,
    histories: list[list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    third = np.random.default_rng([0, 0]).permutation(len(histories)).tolist()[2 * 3]
    deadly = [*histories]
    deadly[third] = [0, 10**6]
    recipe = EnhanceRecipe(group=4, beams=6, prompts=3, learning_rate=1e-3, max_steps=4, updates=2)

    def train(of: list[list[int]], name: str) -> Learner:
        made = new_learner(base, NanoConfig(), catalog.space, [], seed=0)
        checkpoint = Checkpoint(tmp_path / name, of="this run")
        enhance(made, catalog, of, recipe, 12, checkpoint, seed=0)
        return made

    whole = train(histories, "whole")
    with pytest.raises(IndexError):
        train(deadly, "killed")
    resumed = train(histories, "killed")
    for expected, found in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_an_unknown_reward_is_named(
    learner: Learner, catalog: Catalog, histories: list[list[int]]
) -> None:
    with pytest.raises(InvalidSettings, match="reward = 'applause', expected among"):
        enhance(learner, catalog, histories, EnhanceRecipe(reward="applause"), 8, seed=0)
