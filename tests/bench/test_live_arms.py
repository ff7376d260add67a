"""Arms that learn on: what they rank on a day is what the versions of a live folder say."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.quality.timeline.arms import OnlineArm
from bench.quality.timeline.live_arms import (
    FrozenWeights,
    LiveArm,
    LiveState,
    learning_arms,
    memory_of,
)
from bench.quality.timeline.live_past import DAY_MS, LivePast
from bench.quality.timeline.user_days import TimeSplit, UserDay
from models.catalog.fed_items import FedItem
from models.catalog.growth import grow
from models.errors import InvalidRelease, ReleaseMismatch
from models.online.memory.live_counts import LiveCounts
from models.release.delta import Delta
from models.release.live import LiveFolder, LiveRelease
from models.release.release import Release
from models.release.searchers import load_live_finisher
from tests.fakes.toy import toy_catalog, toy_release
from tests.fakes.toy_live import header, weights_delta

LEARNT_DAY = 5  # the delta of the fixture has learnt this day
HISTORY = (3, 9, 4, 1)


@pytest.fixture(scope="module")
def past(release: Release, tmp_path_factory: pytest.TempPathFactory) -> LivePast:
    """A base, and a delta with other weights that a learner left behind on a day."""
    folder = LiveFolder(tmp_path_factory.mktemp("timeline") / "live")
    live = LiveRelease.of(folder.publish_base(release.directory))
    place = header(live.version, watermark=f"{LEARNT_DAY * DAY_MS}-7")
    folder.add_delta(Delta(place, None, weights_delta(live)))
    return LivePast(folder)


def split_of(release: Release, *user_days: UserDay) -> TimeSplit:
    learnt: list[tuple[int, ...]] = [(row, (row + 1) % 20) for row in range(20)]
    return TimeSplit(release.catalog.item_ids, 4, learnt, [[day] for day in user_days])


def user_day(day: int) -> UserDay:
    return UserDay("u", HISTORY, 2, tuple(range(10, 40)), day)


def test_a_day_has_the_weights_of_the_days_before(past: LivePast, release: Release) -> None:
    walk = past.walk()
    assert walk.left_by(LEARNT_DAY - 1).version.deltas == 0
    assert walk.left_by(LEARNT_DAY).version.deltas == 1
    state = LiveState(past, split_of(release))
    arms = learning_arms(state, past, release.catalog.item_ids, {})
    on_the_day = {name: arm.rank(user_day(LEARNT_DAY)) for name, arm in arms.items()}
    after = {name: arm.rank(user_day(LEARNT_DAY + 1)) for name, arm in arms.items()}
    assert on_the_day["micro_batch"] == on_the_day["counts_live"] == on_the_day["daily"]
    assert after["counts_live"] == on_the_day["counts_live"]
    assert after["micro_batch"] == after["daily"] != after["counts_live"]
    finisher = load_live_finisher(past.walk().left_by(LEARNT_DAY))
    served = OnlineArm(finisher, release.catalog, release.catalog.item_ids, is_fresh=True)
    assert after["daily"] == served.rank(user_day(LEARNT_DAY + 1))


def test_live_memory_ranks_as_the_neighbours_counted_anew(past: LivePast, release: Release) -> None:
    """After each event only the lists of the newest items are made; all of them say the same."""
    state = LiveState(past, split_of(release))
    arm = learning_arms(state, past, release.catalog.item_ids, {})["memory_live"]
    counts = LiveCounts.of_memory(memory_of(release))
    before = arm.rank(user_day(LEARNT_DAY))
    for day in (UserDay("v", (1, 3), 2, (22, 25), LEARNT_DAY),) * 30:
        state.learn(day)
        counts.add([1, 3], 22)
        counts.add([1, 3, 22], 25)
    recent = np.array(HISTORY[: -counts.settings.recent - 1 : -1])
    row_R, evidence_R = counts.neighbours().evidence(recent)
    own_R, own_evidence_R = state.neighbours(HISTORY).evidence(recent)
    assert own_R.tolist() == row_R.tolist()
    np.testing.assert_array_equal(own_evidence_R, evidence_R)
    after = arm.rank(user_day(LEARNT_DAY))
    assert after != before
    assert after[12] < before[12], "item 22 follows items 1 and 3 thirty times more"


def test_an_item_fed_on_a_day_is_known_on_that_day(release: Release, tmp_path: Path) -> None:
    """The base that its day leaves behind holds it, at another place than the rows before."""
    folder = LiveFolder(tmp_path / "live")
    folder.publish_base(release.directory)
    grown = grow(release.catalog, [FedItem(item_id="fed")], np.array([[3, 1, 2]])).catalog
    toy_release(tmp_path / "grown", catalog=grown)
    file = tmp_path / "grown" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["recipe"]["updates"] = {"watermark": f"{LEARNT_DAY * DAY_MS}-0"}
    file.write_text(json.dumps(manifest))
    folder.publish_base(tmp_path / "grown")
    item_ids = (*release.catalog.item_ids, "fed")
    past = LivePast(folder)
    state = LiveState(past, replace(split_of(release), item_ids=item_ids))
    fed = len(item_ids) - 1
    day = UserDay("u", HISTORY, 2, (fed,), LEARNT_DAY)
    state.learn(replace(day, items=(5,), day=LEARNT_DAY - 1))
    assert state.items.places([fed]) == [None]
    arms = learning_arms(state, past, item_ids, {})
    assert arms["daily"].rank(day) == [math.inf]
    for _ in range(50):
        state.learn(day)
    assert state.items.places([fed]) == [grown.row("fed")]
    assert arms["memory_live"].rank(day) == [1.0]
    (row,) = state.items.rows([5])
    assert grown.item_ids[row] == release.catalog.item_ids[5]
    assert state.items.item_of_N[row] == 5


def test_a_refit_begins_behind_its_day_and_needs_the_same_sids(
    past: LivePast, release: Release, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRelease, match="no base, expected a live folder"):
        LivePast(LiveFolder(tmp_path / "none"))
    state = LiveState(past, split_of(release))
    refits = {LEARNT_DAY: release.directory}
    refit = learning_arms(state, past, release.catalog.item_ids, refits)["refit"]
    assert refit.rank(user_day(9)) == LiveArm(state, FrozenWeights(release)).rank(user_day(9))
    other = toy_release(tmp_path / "other", catalog=toy_catalog(sizes=(8, 8, 32)))
    with pytest.raises(ReleaseMismatch, match="other SIDs"):
        learning_arms(state, past, release.catalog.item_ids, {LEARNT_DAY: other.directory})
