"""Reasons of the items of an answer: what ranked each one, and the thought that agrees with it.

Computed for `explain=true` and for the page alone. The parts are exact: model, memory, night and
wish add up to the score. Knows nothing of stores or HTTP.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from models.catalog.catalog import Catalog
from models.online.found import Ints
from models.online.memory.pair_evidence import Evidence, PairEvidence, take_apart
from models.online.score_parts import score_parts
from models.reasoner.rationales import agreed_topic
from service.recommend.engine import Engine
from service.recommend.ladder import RECORDED, Pick, Plan, Wanted
from service.recommend.model_thread import ModelThread, NotDoneError
from service.sources import Ground, Mode

_NO_EVIDENCE = Evidence((), 0.0)


class Parts(NamedTuple):
    """Parts that add up to the score of one item."""

    model: float  # log-probability by the online model (Eq. 11)
    memory: float  # bonus of the memory
    night: float  # bonus of the night
    wish: float = 0.0  # bonus of the user's wish


class AgreedThought(NamedTuple):
    """A thought that found the prefix of an item and names its topic."""

    path: int
    topic: str


class ItemReason(NamedTuple):
    """Reason of one item."""

    ground: Ground  # what speaks most for the item
    parts: Parts | None  # None for `popular`
    evidence: tuple[PairEvidence, ...]  # of the memory, by item of the history, most first
    thought: AgreedThought | None  # None: no thought agrees with the item


class Asked(NamedTuple):
    """An answer whose reasons are wanted."""

    engine: Engine
    plan: Plan
    picks: Sequence[Pick]
    thoughts: Sequence[str]  # by path number; empty without a record
    wanted: Wanted  # says which bonuses count


async def tell_reasons(
    asked: Asked, thread: ModelThread, *, deadline: float
) -> tuple[ItemReason, ...] | None:
    """Return a reason for each pick; None if the model thread has no time."""
    try:
        return (await thread.run(lambda: find_reasons(asked), deadline=deadline)).value
    except NotDoneError:
        return None


def find_reasons(asked: Asked) -> tuple[ItemReason, ...]:
    """Return a reason for each pick. Only the model thread may call it."""
    engine, plan = asked.engine, asked.plan
    rows = [pick.row for pick in asked.picks if pick.score is not None]
    state = engine.encode(plan.rows)
    found = score_parts(engine.finisher, state, rows) if rows else {}
    bonus_of = _night_bonuses(asked)
    reasons = []
    for pick in asked.picks:
        parts, evidence = None, _NO_EVIDENCE
        if pick.score is not None and (part := found.get(pick.row)) is not None:
            night = bonus_of.get(pick.row, 0.0) if pick.source in RECORDED else 0.0
            parts = Parts(part.logprob, part.bonus, night, _wished(asked, pick.row))
            evidence = _evidence(engine, state.recent, pick.row)
        ground = _ground(parts, evidence, num_sids=len(engine.catalog.trie))
        reasons.append(ItemReason(ground, parts, evidence.pairs, _agreed(asked, pick)))
    return tuple(reasons)


def sentence(reason: ItemReason, catalog: Catalog) -> str:
    """Write what speaks most for an item as a sentence."""
    return _SENTENCES.get(reason.ground) or _of_pair(reason, catalog)


_SENTENCES = {
    Ground.NIGHT: "The night found it likely from the whole history.",
    Ground.WISH: "It fits your wish.",
    Ground.MODEL: "The online model finds it likely after the newest items.",
    Ground.POPULAR: "Many users have had it.",
}


def _of_pair(reason: ItemReason, catalog: Catalog) -> str:
    """Name the item of the history that gives most evidence of the kind that counts."""
    if reason.ground == Ground.WORDS:
        pair = max(reason.evidence, key=lambda each: each.cosine)
        return f'Its text is close to that of "{_name(catalog, pair.item)}" ({pair.cosine:.2f}).'
    pair = next((each for each in reason.evidence if each.times), reason.evidence[0])
    times = f" ({pair.times:.1f} times, by nearness)" if pair.times else ""
    return f'Others had it soon before or after "{_name(catalog, pair.item)}"{times}.'


def _name(catalog: Catalog, row: int) -> str:
    return catalog.titles[row] or catalog.item_ids[row]


def _night_bonuses(asked: Asked) -> dict[int, float]:
    """Return the night's bonus by catalog row; empty where it does not count."""
    plan = asked.plan
    if asked.wanted.mode != Mode.FUSED or plan.record is None:
        return {}
    night = asked.engine.night_bonus(plan.record, num_fresh=plan.num_fresh)
    if night is None:
        return {}
    return dict(zip(night.row_R.tolist(), night.bonus_R.tolist(), strict=True))


def _wished(asked: Asked, row: int) -> float:
    """Return the bonus of the user's wish for an item."""
    wish = asked.wanted.wish
    if wish is None or not asked.engine.finisher.takes_nights:
        return 0.0
    return wish.bonus_of(row, asked.wanted.wish_strength)


def _evidence(engine: Engine, recent: Ints, row: int) -> Evidence:
    neighbours, pairs = engine.finisher.neighbours, engine.pairs
    if neighbours is None or pairs is None:
        return _NO_EVIDENCE
    return take_apart(neighbours, recent, row, pairs)


def _ground(parts: Parts | None, evidence: Evidence, *, num_sids: int) -> Ground:
    """Return the largest part; the model's is what it adds to a uniform distribution."""
    if parts is None:
        return Ground.POPULAR
    nats_of = {
        Ground.MODEL: max(parts.model + math.log(num_sids), 0.0),  # first: it wins a tie at 0
        Ground.MEMORY: parts.memory * (1 - evidence.words),
        Ground.WORDS: parts.memory * evidence.words,
        Ground.NIGHT: parts.night,
        Ground.WISH: parts.wish,
    }
    return max(nats_of, key=lambda ground: nats_of[ground])


def _agreed(asked: Asked, pick: Pick) -> AgreedThought | None:
    """Return the thought that found the pick's prefix, if it names the pick's topic too."""
    catalog, record = asked.engine.catalog, asked.plan.record
    if record is None or pick.source not in RECORDED:
        return None
    prefix = tuple(catalog.sids[pick.row, : catalog.space.prefix_depth].tolist())
    path = record.path_of.get(prefix)
    if path is None or path >= len(asked.thoughts):
        return None
    topic = agreed_topic(catalog, pick.row, asked.thoughts[path])
    return AgreedThought(path, topic) if topic is not None else None
