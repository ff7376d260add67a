"""Reward of a thought as one of a set: what it adds to the night's prefixes and to the likelihood.

A hit of the set is shared by the paths that have it: a path is paid most for prefixes that the
other paths do not have. Added is the rise of the target's log-probability over no thought.
"""

# P = prompts, G = thoughts per prompt, D = codes of a prefix

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.catalog.catalog import Catalog
from models.catalog.sid import Sid
from models.reasoner.beam import beam_search
from models.reasoner.next_items import score_codes
from models.reasoner.transformers_engine import TransformersReasoner, TransformersThoughts
from training.reasoner_recipes import EnhanceRecipe

SET_REWARD = "set-coverage"  # of a recipe
_MOST_RISE = 2.0  # nats, up or down; also the fall of a thought that never closes


def set_rewards(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    thoughts: TransformersThoughts,
    asked: Sequence[str],
    targets: Sequence[Sid],
    recipe: EnhanceRecipe,
) -> list[float]:
    """Return the reward of every sampled thought, prompt by prompt.

    Args:
        thoughts: of the prompts in `asked`, `recipe.group` each.
    """
    depth = catalog.space.prefix_depth
    wanted_PD = np.array(targets, dtype=np.int64)[:, :depth]
    is_closed_PG = torch.tensor(
        [path[-1] == reasoner.think_end for path in thoughts.sampled]
    ).reshape(len(asked), recipe.group)
    owner_R = is_closed_PG.nonzero()[:, 0].numpy()
    beams = beam_search(thoughts.scorer(), catalog.trie, depth=depth, width=recipe.beams)
    has_R = [
        tuple(wanted_PD[owner]) in {beam.codes for beam in found}
        for owner, found in zip(owner_R.tolist(), beams, strict=True)
    ]
    logp_R = score_codes(thoughts.scorer(), wanted_PD[owner_R])[:, -1]
    empty_P = score_codes(reasoner.recite(asked, [[""]] * len(asked)).scorer(), wanted_PD)[:, -1]
    has_PG = torch.zeros(is_closed_PG.shape).masked_scatter(is_closed_PG, torch.tensor(has_R) * 1.0)
    rise_PG = torch.full(is_closed_PG.shape, -_MOST_RISE).masked_scatter(
        is_closed_PG, torch.from_numpy(logp_R - empty_P[owner_R]).float()
    )
    reward_PG = shared_hits(has_PG) + recipe.rise_weight * rise_PG.clamp(-_MOST_RISE, _MOST_RISE)
    values: list[float] = reward_PG.flatten().tolist()
    return values


def shared_hits(has_PG: Tensor) -> Tensor:
    """Share each set's hit among the paths that have the target's prefix: 1 for a path alone.

    This is the Shapley value of the coverage of the set.
    """
    return has_PG / has_PG.sum(dim=1, keepdim=True).clamp(min=1)
