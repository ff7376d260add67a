"""Recommendations of a reasoner without a thought.

There are two manners. `silent` is the night's own prompt with an empty thought. `preference` is the
prompt of Sequential Preference Modeling (A.3.1), which a reasoner learns in alignment. Knows
nothing of the disk.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from models.catalog.catalog import Catalog
from models.reasoner import prompts
from models.reasoner.beam import Beam, beam_search
from models.reasoner.think import MAX_HISTORY, UserHistory, render_history
from models.reasoner.transformers_engine import TransformersReasoner


class Manner(StrEnum):
    """Manner of asking a reasoner."""

    THINK = "think"
    SILENT = "silent"
    PREFERENCE = "preference"

    @property
    def closing(self) -> str:
        """Return the token after which the item begins."""
        return prompts.ANSWER_BEGIN if self is Manner.PREFERENCE else prompts.THINK_END


class Beams(NamedTuple):
    """Prefixes and whole SIDs of one user, best first."""

    prefixes: list[Beam]
    sids: list[Beam]


def recommend_without_thought(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    users: Sequence[UserHistory],
    *,
    manner: Manner,
    width: int,
) -> list[Beams]:
    """Search beams of `width` without a thought.

    The reasoner must be loaded with the manner's closing token.
    """
    asked = [_question(catalog, user.rows, manner) for user in users]
    batch = reasoner.recite(asked, [[""]] * len(asked))
    depth, levels = catalog.space.prefix_depth, catalog.space.levels
    prefixes = beam_search(batch.scorer(), catalog.trie, depth=depth, width=width)
    sids = beam_search(batch.scorer(), catalog.trie, depth=levels, width=width)
    return [Beams(*found) for found in zip(prefixes, sids, strict=True)]


def _question(catalog: Catalog, rows: Sequence[int], manner: Manner) -> str:
    if manner is Manner.SILENT:
        return render_history(catalog, rows)
    history = [tuple(sid) for sid in catalog.sids[list(rows[-MAX_HISTORY:])].tolist()]
    return prompts.preference_prompt(catalog.space, history).removesuffix(manner.closing)
