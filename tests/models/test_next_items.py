"""A reasoner judged by next items, compared with one forward pass a thought."""

import numpy as np
import pytest
import torch

from models.reasoner.next_items import NextItem, judge_next_items
from models.reasoner.think import UserHistory, render_history, think_users, user_seed
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release

PATHS = 3


def test_probabilities_and_prefixes_are_those_of_the_night(release: Release) -> None:
    catalog = release.catalog
    reasoner = TransformersReasoner.load(release.reasoner_dir, release.space)
    asked = [
        NextItem(UserHistory(f"u{at}", tuple(range(at, 3 * at + 1))), 11 * at) for at in range(9)
    ]
    judged = judge_next_items(reasoner, catalog, asked, paths=PATHS, width=4, seed=5)
    seeds = [user_seed(5, one.history.user_id) for one in asked]
    histories = [one.history for one in asked]
    night = think_users(reasoner, catalog, histories, paths=PATHS, width=4, seeds=seeds)
    rendered = [render_history(catalog, one.history.rows) for one in asked]
    sampled = reasoner.think(rendered, paths=PATHS, seeds=seeds).tokens
    for one, found, user, paths in zip(asked, judged, night, sampled, strict=True):
        prefixes = [prefix.codes for prefix in user.prefixes]
        assert found.num_prefixes == len(prefixes)
        assert found.is_found == (tuple(catalog.sids[one.target, :2].tolist()) in prefixes)
        assert found.num_closed == len(user.texts) == PATHS - user.dropped_paths
        prefix, item = np.mean(
            [probabilities(reasoner, release, one, path) for path in paths]
            + [(0.0, 0.0)] * user.dropped_paths,
            axis=0,
        )
        assert np.exp(found.prefix_logprob) == pytest.approx(prefix, rel=1e-3, abs=1e-8)
        assert np.exp(found.item_logprob) == pytest.approx(item, rel=1e-3, abs=1e-8)
    assert sum(one.num_closed for one in judged) > 9


def probabilities(
    reasoner: TransformersReasoner, release: Release, one: NextItem, path: list[int]
) -> tuple[float, float]:
    """P(prefix) and P(item) after a closed path, by one plain forward pass."""
    sid = release.catalog.sids[one.target].tolist()
    prompt = render_history(release.catalog, one.history.rows)
    before = [*reasoner.tokenizer.encode(prompt, add_special_tokens=False), *path]
    codes = [int(reasoner.code_ids[level][code]) for level, code in enumerate(sid)]
    ids = torch.tensor([[*before, reasoner.item_begin, *codes]])
    with torch.no_grad():
        logp_SV = reasoner.model(input_ids=ids, use_cache=False).logits[0].log_softmax(dim=-1)
    steps = [float(logp_SV[len(before) + level, code]) for level, code in enumerate(codes)]
    return float(np.exp(sum(steps[:2]))), float(np.exp(sum(steps)))
