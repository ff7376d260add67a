"""New events of a day: from data folder and log, each once, and never an old one as a target."""

from collections import Counter

import pytest

from models.catalog.catalog import Catalog
from models.catalog.dataset import Dataset, Interaction
from models.errors import InvalidSettings
from models.store.contract import Logged
from models.store.events import Event
from tests.fakes.toy import toy_catalog
from training.batching import Row
from training.learn.guard import GuardSettings
from training.nano import build_tokenizer
from training.rationale_writers import Thinker
from training.reasoner_day.day_rows import day_batches
from training.reasoner_day.day_settings import DaySteps
from training.reasoner_day.timeline import (
    Part,
    Timeline,
    guard_new_events,
    merged_events,
    old_sample,
    read_moment,
)
from training.reasoner_recipes import ReasonerRecipe, ThoughtRecipe
from training.recipe import Recipe
from training.tasks import Tasks

DAY_S = 24 * 3600


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


def logged(moment: str, user_id: str, item: int, timestamp: int, kind: str = "") -> Logged:
    return Logged(moment, user_id, Event(f"item-{item}", timestamp, moment, kind))


def dataset(**users: list[tuple[int, int]]) -> Dataset:
    """Histories of (item, timestamp)."""
    histories = {
        user: [Interaction(f"item-{item}", time, pos) for pos, (item, time) in enumerate(events)]
        for user, events in users.items()
    }
    return Dataset(histories, {})


def test_data_and_log_give_each_event_once_in_the_order_of_its_moment(catalog: Catalog) -> None:
    data = dataset(ann=[(1, 10), (2, 20)], bob=[(3, 10)], eve=[(4, 10)])
    log = [
        logged("21000-0", "ann", 2, 20),  # the data have it too
        logged("30000-0", "ann", 5, 30),
        logged("30000-0", "ann", 5, 30)._replace(entry="30500-0"),  # a client tried again
        logged("31000-0", "bob", 6, 31, "view"),
        logged("32000-0", "bob", 7, 32),
        logged("33000-0", "ann", 999, 33),  # not in the catalog
        logged("40000-0", "ann", 8, 40),
    ]
    events = merged_events(
        data, log, until="35000-0", types={"view": 0.0}, is_erased=lambda user, _: user == "eve"
    )
    timeline = Timeline(events, catalog)
    assert timeline.moments(after="20000-9") == ["21000-0", "30000-0", "32000-0"]
    rows = {item: catalog.rows([f"item-{item}"])[0] for item in (1, 2, 3, 5, 7)}
    part = timeline.part(after="20000-9", until="35000-0")
    assert part == Part(["ann", "bob"], [[rows[1], rows[2], rows[5]], [rows[3], rows[7]]], [1, 1])
    assert part.num_events == 3
    assert part.items == sorted([rows[2], rows[5], rows[7]])
    assert [one.target for one in part.next_items(9, seed=0)] == [rows[2], rows[5], rows[7]]
    (question,) = old_sample(timeline, until="21000-0", count=5, seed=0)
    assert (question.history.rows, question.target) == ((rows[1],), rows[2])


def test_a_day_and_an_entry_are_moments() -> None:
    assert read_moment("1970-01-02") == f"{1000 * DAY_S - 1}-0"
    assert read_moment("1700-3") == "1700-3"
    for wrong in ("yesterday", "12", "2014-13-01", "5-", ""):
        with pytest.raises(InvalidSettings, match="expected an entry of the log, ms-n, or a day"):
            read_moment(wrong)


def test_one_client_does_not_fill_a_day() -> None:
    events = [logged(f"{5000 + at}-0", "bot", at % 9, at) for at in range(100)]
    events += [logged("6000-0", "ann", 1, 6)]
    found = guard_new_events(events, after="5000-0", settings=GuardSettings(user_events=10))
    assert found.num_new == 100
    assert Counter(each.user_id for each in found.events) == {"bot": 1 + 10, "ann": 1}
    assert found.held.users == {"bot": 89}


@pytest.mark.parametrize("stages", [("align", "activate"), ("integrate", "activate"), ("align",)])
def test_half_of_the_tokens_are_old_if_there_are_old_ones(
    catalog: Catalog, stages: tuple[str, ...]
) -> None:
    texts = [" ".join(filter(None, catalog.titles)), "The user likes; bought Next: "]
    tokenizer = build_tokenizer(texts, catalog.space, text_tokens=300)
    recipe = Recipe(reasoner=ReasonerRecipe(stages=stages))
    part = Part(["ann", "bob"], [list(range(40)), [50, 51, 52]], [36, 1])

    def num_tokens(old: list[list[int]]) -> int:
        batches = day_batches(catalog, part, old, tokenizer, recipe, DaySteps(), seed=0)
        return sum(int((batch.ids_RS != 0).sum()) for batch in batches)

    alone = num_tokens([[1], [2]])
    old = [list(range(at, at + 9)) for at in range(100)]
    assert num_tokens(old) == pytest.approx(2 * alone, rel=0.2)


def test_every_task_asks_for_new_events_alone(catalog: Catalog) -> None:
    histories, firsts = [list(range(20)), [30, 31], [40, 41, 42]], [17, 0, 2]
    new = {17, 18, 19, 30, 31, 42}
    texts = [" ".join(filter(None, catalog.titles)), "The user likes; bought Next: "]
    tokenizer = build_tokenizer(texts, catalog.space, text_tokens=300)
    tasks = Tasks(catalog, histories, tokenizer, 0, firsts=firsts, items=sorted(new))
    sids = {tuple(catalog.sids[row].tolist()): row for row in range(len(catalog))}

    def items(ids: list[int]) -> list[int]:
        return [sids[sid] for sid in catalog.space.parse(str(tokenizer.decode(ids)))]

    def learnt(rows: list[Row]) -> Counter[int]:
        return Counter(item for row in rows for item in items(row.ids[row.num_context :]))

    assert learnt(list(tasks.preferences())) == Counter(new - {30})
    assert learnt(list(tasks.sequences())) == Counter(new)
    thinker = Thinker(ThoughtRecipe(silent_share=1.0))
    assert set(learnt([row for _ in range(9) for row in tasks.rationales(thinker)])) == new - {30}
    told = [items(row.ids) for row in tasks.personas()]
    assert sorted(told) == [[16, 17, 18, 19], [30, 31], [40, 41, 42]]
    assert sorted(item for row in tasks.descriptions() for item in items(row.ids)) == sorted(new)
