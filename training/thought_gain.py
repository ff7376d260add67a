"""Gain of a thought: how much it raises the log-probability of the next item over no thought."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from models.catalog.catalog import Catalog
from models.reasoner.next_items import Judged, NextItem, judge_next_items
from models.reasoner.think import UserHistory
from models.reasoner.transformers_engine import TransformersReasoner, TransformersThoughts
from training.split import UserSplit

_WIDTH = 32  # prefixes that are searched after each path


class ThoughtGain(NamedTuple):
    """Gain over the empty thought on one set of users; log-probabilities are means."""

    users: int
    at_once: float  # log P(SID of the target), empty thought
    thought: float  # the same, mean probability over the paths
    gain: float  # their difference
    half_width: float  # of its 95% interval
    raised: float  # share of users whose target became more likely
    prefix_gain: float  # gain in log P(prefix of the target)


class AtOnce:
    """A reasoner that thinks nothing; for `judge_next_items`."""

    def __init__(self, reasoner: TransformersReasoner) -> None:
        self._reasoner = reasoner

    def think(
        self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]
    ) -> TransformersThoughts:
        return self._reasoner.recite(prompts, [[""]] * len(prompts))


def measure_gain(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    asked: Sequence[NextItem],
    *,
    paths: int,
    seed: int,
) -> ThoughtGain:
    """Judge every question with sampled thoughts and with the empty one.

    A question without a closed thought counts with the least log-probability.
    """
    thought, at_once = (
        judge_next_items(one, catalog, asked, paths=num, width=_WIDTH, seed=seed)
        for one, num in ((reasoner, paths), (AtOnce(reasoner), 1))
    )
    gains_U = _item(thought) - _item(at_once)
    prefix_gain = np.mean([one.prefix_logprob for one in thought]) - np.mean(
        [one.prefix_logprob for one in at_once]
    )
    return ThoughtGain(
        users=len(asked),
        at_once=round(float(_item(at_once).mean()), 4),
        thought=round(float(_item(thought).mean()), 4),
        gain=round(float(gains_U.mean()), 4),
        half_width=round(1.96 * float(gains_U.std()) / max(len(gains_U), 1) ** 0.5, 4),
        raised=round(float((gains_U > 0).mean()), 4),
        prefix_gain=round(float(prefix_gain), 4),
    )


def next_items(catalog: Catalog, users: Sequence[UserSplit], *, most: int) -> list[NextItem]:
    """Return the question for the validation target of each user."""
    return [
        NextItem(UserHistory(user.user_id, catalog.rows(user.train)[-most:]), row)
        for user in users
        if user.valid is not None and (row := catalog.row(user.valid)) is not None
    ]


def _item(judged: Sequence[Judged]) -> Any:
    return np.array([one.item_logprob for one in judged])
