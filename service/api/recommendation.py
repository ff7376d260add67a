"""Builds the JSON of a recommendation, and its Server-Timing header."""

import secrets
from typing import cast

from models.catalog.catalog import Catalog
from service.api import responses
from service.api.responses import (
    ExperimentArm,
    Generation,
    Item,
    PathText,
    Recommendation,
    Timings,
    WishAtWork,
)
from service.recommend.ladder import RECORDED
from service.recommend.pages import Cursors
from service.recommend.pipeline import Served
from service.recommend.reasons import ItemReason, sentence
from service.sources import Source


def write_recommendation(
    served: Served, cursors: Cursors, *, user_id: str | None, request_id: str
) -> Recommendation:
    answer = Recommendation(
        request_id=request_id,
        recommendation_id=secrets.token_hex(16),
        user_id=user_id,
        source=served.source,
        degraded=served.is_degraded,
        generation=_generation(served),
        release=served.engine.label,
        model=None if served.source == Source.POPULAR else served.engine.model,
        experiment=[ExperimentArm(name=name, arm=arm) for name, arm, _ in served.exposures],
        items=_items(served),
        next_cursor=cursors.write(served.following) if served.following else None,
        paths=[PathText(path=path, text=text) for path, text in enumerate(served.thoughts or ())],
        timings_ms=_timings(served),
    )
    if served.thoughts is None:
        del answer["paths"]  # built in, then deleted: the agreed order has it before timings_ms
    else:
        _add_reasons(answer["items"], served)
    if served.wish is not None:
        answer["wish"] = WishAtWork(
            wanted=served.wish.wanted, unwanted=served.wish.unwanted, until=served.wish_until
        )
    return answer


def server_timing(served: Served) -> str:
    """Return the value of a `Server-Timing` header (W3C): milliseconds per stage."""
    return ", ".join(f"{stage};dur={1000 * s:.3f}" for stage, s in served.seconds.items())


def _timings(served: Served) -> Timings:
    milliseconds = {stage: round(1000 * s, 3) for stage, s in served.seconds.items()}
    return cast("Timings", milliseconds)  # the pipeline uses the stage names of the API


def _generation(served: Served) -> Generation | None:
    if served.record is None:
        return None
    return Generation(
        id=served.record.generation,
        created_at=served.record.created_at,
        age_s=max(int(served.record_age_s), 0),
    )


def _items(served: Served) -> list[Item]:
    catalog, record = served.engine.catalog, served.record
    sids = catalog.sids[[pick.row for pick in served.picks]].tolist()
    paths = record.path_of if record is not None else {}
    depth = catalog.space.prefix_depth
    return [
        {  # a literal takes half the time of a call
            "item_id": catalog.item_ids[pick.row],
            "rank": rank,
            "score": pick.score,
            "sid": sid,
            "source": pick.source,
            "title": catalog.titles[pick.row],
            "path": paths.get(tuple(sid[:depth])) if pick.source in RECORDED else None,
            "because": [catalog.item_ids[row] for row in pick.because] or None,
        }
        for rank, (pick, sid) in enumerate(
            zip(served.picks, sids, strict=True), start=1 + served.num_before
        )
    ]


def _add_reasons(items: list[Item], served: Served) -> None:
    reasons = served.reasons or (None,) * len(items)
    for item, reason in zip(items, reasons, strict=True):
        item["reason"] = _reason(reason, served.engine.catalog) if reason is not None else None


def _reason(reason: ItemReason, catalog: Catalog) -> responses.ItemReason:
    parts, thought = reason.parts, reason.thought
    agrees = f" Path {thought.path} names its topic: {thought.topic}." if thought else ""
    return {
        "ground": reason.ground,
        "text": sentence(reason, catalog) + agrees,
        "parts": responses.Parts(
            model=parts.model, memory=parts.memory, night=parts.night, wish=parts.wish
        )
        if parts is not None
        else None,
        "evidence": [
            {
                "item_id": catalog.item_ids[pair.item],
                "share": pair.share,
                "times": pair.times,
                "cosine": pair.cosine,
            }
            for pair in reason.evidence
        ],
        "thought": responses.AgreedThought(path=thought.path, topic=thought.topic)
        if thought is not None
        else None,
    }
