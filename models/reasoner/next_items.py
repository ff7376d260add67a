"""Judge a reasoner by the next items of users: their likelihood, and whether a night finds them.

Each user is thought about as at night. Then the codes of the next item are scored after every
thought, and the prefixes are searched. Knows nothing of files or of how a reasoner learns.
"""

# R = closed paths, L = levels

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.reasoner import prompts, rationales
from models.reasoner.beam import Frontier, Scorer, beam_search
from models.reasoner.think import Reasoner, UserHistory, render_history, unite, user_seed

_BATCH = 32
_LEAST = -20.0  # log-probability of an item after no closed thought, or after hopeless ones


class NextItem(NamedTuple):
    """A history, and the catalog row of the item that came next."""

    history: UserHistory
    target: int


class Judged(NamedTuple):
    """Answers of a reasoner to one question; probabilities are means over its paths."""

    prefix_logprob: float  # log P(prefix of the next item | history)
    item_logprob: float  # log P(SID of the next item | history)
    is_found: bool  # the prefix is among those of the night, C_u
    num_prefixes: int  # in C_u
    num_closed: int  # thoughts that ended
    num_formed: int  # of them, those that name a next topic of the catalog


def judge_next_items(
    reasoner: Reasoner,
    catalog: Catalog,
    asked: Sequence[NextItem],
    *,
    paths: int,
    width: int,
    seed: int,
) -> list[Judged]:
    """Judge every question; a user's noise depends on the seed alone, so models compare in pairs.

    Paths that never close give the item a probability of 0.
    """
    topics = {prompts.topic(catalog, row) for row in range(len(catalog))}
    order = sorted(range(len(asked)), key=lambda at: len(asked[at].history.rows))
    found: dict[int, Judged] = {}
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        chunk = [asked[at] for at in chosen]
        judged = _judge(reasoner, catalog, chunk, topics, paths=paths, width=width, seed=seed)
        found |= zip(chosen, judged, strict=True)
    return [found[at] for at in range(len(asked))]


def _judge(
    reasoner: Reasoner,
    catalog: Catalog,
    asked: Sequence[NextItem],
    topics: set[str],
    *,
    paths: int,
    width: int,
    seed: int,
) -> list[Judged]:
    """Judge questions that are thought about together."""
    histories = [one.history for one in asked]
    thoughts = reasoner.think(
        [render_history(catalog, user.rows, user.instruction) for user in histories],
        paths=paths,
        seeds=[user_seed(seed, user.user_id) for user in histories],
    )
    depth, sids = catalog.space.prefix_depth, catalog.sids.tolist()
    beams = beam_search(thoughts.scorer(), catalog.trie, depth=depth, width=width)
    wanted = [
        sids[one.target] for one, texts in zip(asked, thoughts.texts, strict=True) for _ in texts
    ]
    wanted_RL = np.array(wanted, dtype=np.int64).reshape(-1, len(sids[0]))
    logp_RL = score_codes(thoughts.scorer(), wanted_RL)
    judged, at = [], 0
    for one, texts in zip(asked, thoughts.texts, strict=True):
        own = slice(at, at + len(texts))
        at += len(texts)
        prefixes = [prefix.codes for prefix in unite(beams[own])]
        judged.append(
            Judged(
                prefix_logprob=_mean_logprob(logp_RL[own, depth - 1], paths),
                item_logprob=_mean_logprob(logp_RL[own, -1], paths),
                is_found=tuple(sids[one.target][:depth]) in prefixes,
                num_prefixes=len(prefixes),
                num_closed=len(texts),
                num_formed=sum(rationales.next_topic(text) in topics for text in texts),
            )
        )
    return judged


def score_codes(scorer: Scorer, codes_RL: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return log P(first codes | context) of one SID a context, for every number of codes."""
    at_R = np.arange(len(codes_RL))
    logp_RL = np.zeros(codes_RL.shape)
    logp_RL[:, 0] = scorer.start()[at_R, codes_RL[:, 0]]
    for level in range(1, codes_RL.shape[1]):
        before_R1 = codes_RL[:, level - 1 : level]
        logp_RWV = scorer.extend(Frontier(np.zeros_like(before_R1), before_R1))
        logp_RL[:, level] = logp_RWV[at_R, 0, codes_RL[:, level]]
    return logp_RL.cumsum(axis=1)


def _mean_logprob(logp_R: NDArray[np.float64], paths: int) -> float:
    """Return the log of the mean probability over all paths, of which R closed."""
    if not len(logp_R):
        return _LEAST
    return max(_LEAST, float(np.logaddexp.reduce(logp_R)) - float(np.log(paths)))
