"""Rows by a night's records, against the night's own numbers rounded as a record rounds them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.common.leave_one_out import Case
from bench.quality.ranking.night_rows import CaseNights, RecordedRow, describe_records
from bench.quality.thoughts.thoughts import CaseThoughts, Thoughts
from models.catalog.catalog import Catalog
from models.night.ridge import fit_night_items
from models.online.memory.tree_memory import NightBonus
from models.reasoner.think import NightItem, PathPrefix, UserHistory
from tests.fakes.toy import toy_catalog, toy_histories
from tests.models.test_finish_memory import remembering


@pytest.fixture
def nights(tmp_path: Path) -> CaseNights:
    catalog = toy_catalog(sizes=(8, 8, 8), num_items=300)
    finisher, _ = remembering("torch-float64", catalog, tmp_path)
    return CaseNights.of(finisher, fit_night_items(toy_histories(catalog, num_users=150), catalog))


@pytest.fixture
def cases(nights: CaseNights) -> list[Case]:
    histories = toy_histories(nights.finisher.catalog, num_users=12, seed=7)
    return [
        Case(UserHistory(f"user {at}", tuple(rows[:-1])), tuple(rows[:-1]), rows[-1])
        for at, rows in enumerate(histories)
        if len(rows) > 1
    ]


def thought_of(catalog: Catalog, case: Case) -> CaseThoughts:
    codes = sorted({tuple(catalog.sids[row, :2].tolist()) for row in case.seen})
    found = tuple(PathPrefix(each, 0, -1.0, 1) for each in codes)
    return CaseThoughts(case.history.user_id, ("a thought",), found, (), 0, 9)


def items_of(nights: CaseNights, case: Case) -> tuple[NightItem, ...]:
    return nights.items.find_sids(case.seen, nights.finisher.catalog)


def test_a_record_ranks_as_the_night_that_wrote_it(nights: CaseNights, cases: list[Case]) -> None:
    finisher, catalog = nights.finisher, nights.finisher.catalog
    thoughts = Thoughts([thought_of(catalog, case) for case in cases], 1.0)
    night = nights.choose(cases, thoughts)
    records = {
        case.history.user_id: nights.record(case, user)
        for case, user in zip(cases, night.users, strict=True)
    }
    ranker, num_lifted, sids = RecordedRow(finisher, records), 0, catalog.sids.tolist()
    for at, case in enumerate(cases):
        steps = {item.codes: round(16 * item.bonus) for item in items_of(nights, case)}
        lifted = [row for row, codes in enumerate(map(tuple, sids)) if codes in steps]
        bonus = [max(steps[tuple(sids[row])], 1) / 16 for row in lifted]
        rounded = NightBonus(np.array(lifted), np.array(bonus))
        state = finisher.encode(case.seen)
        best = finisher.finish(state, finisher.whole, k=10, exclude=case.seen, night=rounded)
        target = best[at % 10].row
        assert ranker.rank(replace(case, target=target)) == at % 10 + 1
        alone = finisher.finish(state, finisher.whole, k=10, exclude=case.seen)
        num_lifted += [item.row for item in alone] != [item.row for item in best]
    assert num_lifted, "the record has a say"
    sizes = [len(record) for record in records.values()]
    assert describe_records(records) == {"mean_bytes": np.mean(sizes), "most_bytes": max(sizes)}
    assert max(sizes) <= 450


def test_c_u_has_as_many_prefixes_with_thoughts_as_without(
    nights: CaseNights, cases: list[Case]
) -> None:
    catalog = nights.finisher.catalog
    thoughts = Thoughts([thought_of(catalog, case) for case in cases], 1.0)
    with_thoughts, silent = nights.choose(cases, thoughts), nights.without_thoughts(cases)
    for before, one, other in zip(thoughts.users, with_thoughts.users, silent.users, strict=True):
        assert len(one.found) == len(other.found) == 32
        marked = {prefix.codes for prefix in one.found if prefix.path is not None}
        assert marked <= set(before.prefixes)
        assert not any(prefix.path == 0 for prefix in other.found)
    assert [user.texts for user in with_thoughts.users] == [user.texts for user in thoughts.users]
