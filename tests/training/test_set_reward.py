"""Rewards of thoughts as a set, and selected thoughts, against one forward pass a thought."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from models.catalog.sid import Sid
from models.errors import InvalidSettings
from models.reasoner.beam import beam_search
from models.reasoner.think import render_history
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from models.release.release import Release
from tests.fakes.toy import toy_histories
from tests.fakes.toy_run import RECIPE, toy_run
from training.enhance import enhance, roll_out
from training.learner import Learner, new_learner
from training.reasoner_recipes import (
    EnhanceRecipe,
    NanoConfig,
    ReasonerRecipe,
    SelectRecipe,
    ThoughtRecipe,
)
from training.reasoner_stages import reasoner_stage
from training.selection import Cut, select_thoughts
from training.set_reward import SET_REWARD, shared_hits

SMALL = EnhanceRecipe(reward=SET_REWARD, group=4, beams=6, prompts=3, max_steps=2, rise_weight=0.25)


@pytest.fixture
def learner(release: Release) -> Learner:
    base = ReasonerRecipe(base=str(release.reasoner_dir))
    return new_learner(base, NanoConfig(), release.space, [], seed=0)


def thinker(learner: Learner, release: Release) -> TransformersReasoner:
    sampling = Sampling(top_p=1.0, top_k=len(learner.tokenizer), max_tokens=20)
    return TransformersReasoner(learner.model, learner.tokenizer, release.space, sampling)


def prefix_logprob(reasoner: TransformersReasoner, before: list[int], prefix: Sid) -> float:
    """Log P(prefix) behind a prompt with a closed thought, by one plain forward pass."""
    codes = [int(reasoner.code_ids[level][code]) for level, code in enumerate(prefix)]
    ids = torch.tensor([[*before, reasoner.item_begin, *codes]])
    with torch.no_grad():
        logp_SV = reasoner.model(input_ids=ids, use_cache=False).logits[0].log_softmax(dim=-1)
    return sum(float(logp_SV[len(before) + at, code]) for at, code in enumerate(codes))


def encode(reasoner: TransformersReasoner, text: str) -> list[int]:
    ids: list[int] = reasoner.tokenizer.encode(text, add_special_tokens=False)
    return ids


def test_a_hit_is_shared_by_the_paths_that_have_it() -> None:
    has = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    expected = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0], [0.25] * 4]
    assert shared_hits(has).tolist() == expected


def test_a_thought_is_paid_for_its_share_of_a_hit_and_the_rise_of_the_likelihood(
    learner: Learner, release: Release
) -> None:
    catalog, reasoner = release.catalog, thinker(learner, release)
    histories = [rows for rows in toy_histories(catalog, num_users=30, seed=3) if len(rows) > 1]
    rollouts = roll_out(reasoner, catalog, histories, SMALL, list(range(len(histories))))
    assert len(rollouts.set_rewards) == len(rollouts.rows) == 4 * len(histories)
    asked = [render_history(catalog, history[:-1]) for history in histories]
    thoughts = reasoner.think(asked, paths=4, seeds=list(range(len(asked))))
    beams = iter(beam_search(thoughts.scorer(), catalog.trie, depth=2, width=6))
    num_hits = num_open = 0
    for at, history in enumerate(histories):
        wanted = tuple(catalog.sids[history[-1], :2].tolist())
        empty = prefix_logprob(reasoner, encode(reasoner, f"{asked[at]}</think>"), wanted)
        own = slice(4 * at, 4 * at + 4)
        ids = [row.ids for row in rollouts.rows[own]]
        is_closed = [path[-1] == reasoner.think_end for path in ids]
        has = [one and wanted in {beam.codes for beam in next(beams)} for one in is_closed]
        rises = [
            prefix_logprob(reasoner, path, wanted) - empty if one else -2.0
            for path, one in zip(ids, is_closed, strict=True)
        ]
        expected = [
            hit / max(1, sum(has)) + 0.25 * min(2.0, max(-2.0, rise))
            for hit, rise in zip(has, rises, strict=True)
        ]
        assert rollouts.set_rewards[own] == pytest.approx(expected, abs=2e-3)
        num_hits, num_open = num_hits + sum(has), num_open + is_closed.count(False)
    assert min(num_hits, num_open) > 3


def test_training_by_the_set_reports_its_reward_beside_the_others(
    learner: Learner, release: Release
) -> None:
    histories = toy_histories(release.catalog, num_users=12, seed=3)
    before = [weight.clone() for weight in learner.model.parameters()]
    made = enhance(learner, release.catalog, histories, SMALL, 20, seed=0)
    assert SET_REWARD in made["reward_late"]
    assert {"rollout-beam", "exact-hit"} < set(made["reward_early"])
    after = learner.model.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    plain = enhance(learner, release.catalog, histories, EnhanceRecipe(max_steps=1), 8, seed=0)
    assert SET_REWARD not in plain["reward_late"]


def test_the_thought_that_raises_the_likelihood_most_is_kept(
    learner: Learner, release: Release, tmp_path: Path
) -> None:
    catalog, reasoner = release.catalog, thinker(learner, release)
    histories = [rows for rows in toy_histories(catalog, num_users=12, seed=3) if len(rows) > 1]
    cuts = [Cut(at, tuple(rows)) for at, rows in enumerate(histories)]
    recipe, file = SelectRecipe(tries=3, batch_users=4), tmp_path / "kept.jsonl"
    select = partial(select_thoughts, reasoner, catalog, cuts, recipe, file, most=50, seed=1)
    made = select()
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    assert [answer["cut"] for answer in answers] == [len(rows) - 1 for rows in histories]
    for history, answer in zip(histories, answers, strict=True):
        assert (answer["text"] is not None) == any(rise > 0 for rise in answer["rises"])
        if answer["text"] is None:
            continue
        best = answer["rises"].index(max(answer["rises"]))
        prompt = render_history(catalog, history[:-1])
        seed = (1 << 32) + answer["history"]
        thoughts = reasoner.think([prompt], paths=3, seeds=[seed])
        assert answer["text"] == thoughts.texts[0][best]
        wanted = tuple(catalog.sids[history[-1], :2].tolist())
        before = encode(reasoner, prompt)
        rise = prefix_logprob(reasoner, before + thoughts.tokens[0][best], wanted)
        rise -= prefix_logprob(reasoner, [*before, reasoner.think_end], wanted)
        assert rise == pytest.approx(max(answer["rises"]), abs=2e-3)
    assert 0 < made["kept"] <= made["rising"] < made["thoughts"]
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])  # as if killed
    assert select() == made
    assert file.read_text() == whole


def test_selected_thoughts_are_learnt_and_all_others_are_empty(
    release: Release, tmp_path: Path
) -> None:
    stages = ("select", "activate")
    recipe = replace(
        RECIPE,
        reasoner=ReasonerRecipe(base=str(release.reasoner_dir), stages=stages),
        select=SelectRecipe(users=8, tries=2),
        thoughts=ThoughtRecipe("selected", max_tokens=20),
        activate=replace(RECIPE.activate, rationale_epochs=1),
    )
    run = toy_run(tmp_path, recipe)
    made = reasoner_stage(run)
    assert 0 < made["select"]["kept"] <= made["select"]["asked"] <= 8
    assert made["activate"]["tokens"] > 0
    alone = replace(recipe, reasoner=replace(recipe.reasoner, stages=("activate",)))
    with pytest.raises(InvalidSettings, match='template "selected" needs the stage select'):
        reasoner_stage(replace(run, recipe=alone))
