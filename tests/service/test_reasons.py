"""Reasons of served items: exact parts, evidence that counts, and thoughts that agree with them."""

import numpy as np
import pytest

from models.catalog.sid import Prefix
from models.online.memory.pair_evidence import take_apart
from models.reasoner.prompts import prefix_topics, topic
from models.reasoner.rationales import Rationale, agreed_topic, rationale_text
from models.store.keys import UserRow
from models.store.records import RecordedItem
from service.recommend.ladder import Pick, Wanted, plan_popular
from service.recommend.reasons import Asked, ItemReason, find_reasons
from service.sources import Ground, Mode, Reason, Source
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    InProcess,
    activate,
    give_history,
    item_ids,
    new_record,
    serving,
    toy_engine,
)
from tests.fakes.toy_memory import shares

BONUS = 12.0
ENGINE = toy_engine()
CATALOG = ENGINE.catalog
OTHER = "Beauty > Nothing"


def a_thought(name: str) -> str:
    return rationale_text(Rationale((name,), name))


async def furnish_thoughts(store: MemoryStore, texts: dict[Prefix, str]) -> None:
    """Give `user` a record in which path i has the i-th prefix and text, and bonus items."""
    first = [CATALOG.sids[:, :2].tolist().index(list(prefix)) for prefix in texts]
    items = [RecordedItem(tuple(CATALOG.sids[row].tolist()), BONUS) for row in first]
    record = new_record(prefixes=list(texts), items=items)
    row = UserRow("user", record, tuple(texts.values()))
    await store.write_layer(record.generation, [row], 3600)
    await give_history(store, "user", item_ids(4))
    await activate(store, record.generation)


@pytest.fixture
def texts() -> dict[Prefix, str]:
    """Four prefixes, the thoughts of two of which name another topic than theirs."""
    topics = list(prefix_topics(CATALOG).items())[:4]
    return {
        prefix: a_thought(name if at % 2 else OTHER) for at, (prefix, name) in enumerate(topics)
    }


async def test_a_thought_is_a_reason_only_for_items_of_its_prefix_and_its_topic(
    texts: dict[Prefix, str],
) -> None:
    store, prefixes = MemoryStore(), list(texts)
    await furnish_thoughts(store, texts)
    async with serving(store, mode="fused") as service:
        items = (await service.recommend("user", n=100, explain="true"))["items"]
    agreed = 0
    for item in items:
        thought = item["reason"]["thought"]
        (row,) = CATALOG.rows([item["item_id"]])
        path = item["path"]
        expected = path is not None and texts[prefixes[path]] == a_thought(topic(CATALOG, row))
        assert (thought is not None) == expected
        if thought is not None:
            agreed += 1
            assert thought["topic"] == " > ".join(CATALOG.categories[row][1:3])
            assert thought["path"] == item["path"]
            assert thought["topic"] in item["reason"]["text"]
    assert agreed
    assert agreed < sum(item["path"] is not None for item in items)


async def test_the_parts_add_up_and_the_largest_is_the_ground(texts: dict[Prefix, str]) -> None:
    store = MemoryStore()
    await furnish_thoughts(store, texts)
    async with serving(store, mode="fused") as service:
        items = (await service.recommend("user", n=100, explain="true"))["items"]
    grounds = {item["reason"]["ground"] for item in items}
    assert grounds >= {Ground.NIGHT, Ground.MEMORY, Ground.WORDS}
    for item in items:
        reason = item["reason"]
        assert [each["item_id"] for each in reason["evidence"]] == (item["because"] or [])
        parts = reason["parts"]
        assert sum(parts.values()) == pytest.approx(item["score"], abs=1e-3)
        if reason["ground"] == Ground.NIGHT:
            assert parts["night"] == max(parts.values())


async def test_without_a_history_the_model_is_the_ground(service: InProcess) -> None:
    assert "reason" not in (await service.recommend("nobody", n=1))["items"][0]
    items = (await service.recommend("nobody", n=100, explain="true"))["items"]
    for item in items:
        assert item["reason"]["ground"] == Ground.MODEL
        assert (item["reason"]["evidence"], item["reason"]["thought"]) == ([], None)


def test_a_popular_item_has_no_parts() -> None:
    picks = [Pick(0, None, Source.POPULAR)]
    wanted = Wanted(1, frozenset(), None, mode=Mode.FUSED, num_own=1)
    asked = Asked(ENGINE, plan_popular(Reason.OVERLOAD), picks, (), wanted)
    (reason,) = find_reasons(asked)
    assert reason == ItemReason(Ground.POPULAR, None, (), None)


def test_an_item_that_loses_its_first_evidence_loses_score() -> None:
    history = CATALOG.rows(item_ids(4))
    finisher = ENGINE.finisher
    full = finisher.finish(finisher.encode(history), finisher.whole, k=len(CATALOG))
    asked = [each for each in full if each.because][:20]
    assert len(asked) == 20
    for each in asked:
        left = [row for row in history if row != each.because[0]]
        without = finisher.finish(finisher.encode(left), finisher.whole, k=len(CATALOG))
        (after,) = [other for other in without if other.row == each.row]
        assert after.score - after.logprob < each.score - each.logprob


def test_evidence_is_taken_apart_as_pair_by_pair() -> None:
    neighbours, pairs = ENGINE.finisher.neighbours, ENGINE.pairs
    memory = ENGINE.release.load_memory()
    assert neighbours is not None
    assert pairs is not None
    assert memory is not None
    history = CATALOG.rows(item_ids(4))
    recent = np.array(history[::-1])
    counts = dict(zip(memory.counts.pair_P.tolist(), memory.counts.count_P.tolist(), strict=True))
    by_row = shares(neighbours, history)
    seen_words = set()
    for row, given in enumerate(by_row):
        found = take_apart(neighbours, recent, row, pairs)
        total = sum(given.values())
        assert {pair.item for pair in found.pairs} <= set(given)
        for pair in found.pairs:
            assert pair.share == pytest.approx(given[pair.item] / total)
            assert pair.times == pytest.approx(counts.get(pair.item * len(CATALOG) + row, 0.0))
            places = memory.similar.row_NS[pair.item] == row
            cosine = memory.similar.cosine_NS[pair.item][places].max(initial=0.0)
            assert pair.cosine == pytest.approx(cosine)
        if len(found.pairs) == 1 and found.pairs[0].times == 0:
            assert found.words == pytest.approx(1.0)
        seen_words.add(round(found.words, 2))
    assert {0.0, 1.0} < seen_words


def test_free_text_has_to_name_the_topic_as_words() -> None:
    row, name = 0, CATALOG.categories[0][2]
    assert agreed_topic(CATALOG, row, f"They want more of {name.upper()}, I think.") is not None
    assert agreed_topic(CATALOG, row, f"They want more of {name}0.") is None
