"""The choice of users for a night, their micro-batches, and the next layer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.errors import (
    InvalidInput,
)
from models.reasoner.think import UserHistory
from models.release.release import Release
from models.store.events import Event
from offline.plan.due import choose_users, micro_batches
from offline.plan.plan_file import next_layer, to_history
from offline.settings import RefreshSettings
from tests.fakes.toy_night import NOW_MS, ImportedWorld


@pytest.fixture
def world(imported_world: ImportedWorld) -> ImportedWorld:
    return imported_world


def chosen(known: Sequence[str], **settings: Any) -> Any:
    return choose_users(RefreshSettings(Path("r"), Path("o"), **settings), known)


def test_users_are_the_first_by_id_and_those_asked_for() -> None:
    known = ["a", "b", "c", "d"]
    assert chosen(known) == (("a", "b", "c", "d"), ())
    assert chosen(known, is_whole=False, num_users=2) == (("a", "b"), ())
    named = chosen(known, is_whole=False, num_users=1, user_ids=("d", "x", "d"))
    assert named == (("a", "d"), ("x",))


def test_a_night_with_nobody_due_is_refused() -> None:
    with pytest.raises(InvalidInput, match="offline import"):
        chosen([])
    with pytest.raises(InvalidInput, match="user 'x' has no history"):
        chosen(["a"], is_whole=False, user_ids=("x",))


def test_a_generation_follows_the_live_ones_even_if_the_clock_went_back(
    world: ImportedWorld,
) -> None:
    newest = world.night()["generation"]
    settings = RefreshSettings(world.release.directory, world.out_dir)
    fingerprint = world.release.space.fingerprint
    layer = next_layer(settings, held=world.manifest(), fingerprint=fingerprint, now_ms=NOW_MS)
    assert layer.generation == newest + 1


def test_items_that_the_catalog_lacks_are_not_thought_about(release: Release) -> None:
    events = [Event("gone", 1, "1"), Event(release.catalog.item_ids[5], 2, "2")]
    assert to_history(release, "ann", events) == UserHistory("ann", (5,))
    assert to_history(release, "ann", events[:1]) is None


def test_a_night_reads_as_many_items_as_its_reasoner(release: Release) -> None:
    events = [Event(release.catalog.item_ids[at % 200], at, f"{at}") for at in range(150)]
    for recipe, num in (({}, 50), ({"reasoner": {"history": 120}}, 120)):
        manifest = release.manifest.model_copy(update={"recipe": recipe})
        history = to_history(replace(release, manifest=manifest), "ann", events)
        assert history is not None
        assert history.rows == tuple(at % 200 for at in range(150 - num, 150))


def test_micro_batches_hold_everybody_once_with_like_lengths_together() -> None:
    users = [UserHistory(f"user-{n}", tuple(range(1 + n * 7 % 60))) for n in range(100)]
    batches = list(micro_batches(users, 16))
    assert sorted(user.user_id for batch in batches for user in batch) == sorted(
        user.user_id for user in users
    )
    lengths = [min(len(user.rows), 50) for batch in batches for user in batch]
    assert lengths == sorted(lengths)
    assert max(len(batch) for batch in batches) == 16
