"""`python -m offline status`: live layers and their age."""

import asyncio

import pytest

from offline.live.status import read_status, render_status
from tests.fakes.toy_night import NUM_USERS, ImportedWorld


@pytest.fixture
def world(imported_world: ImportedWorld) -> ImportedWorld:
    return imported_world


def test_status_before_the_first_night_says_what_to_do(world: ImportedWorld) -> None:
    status = asyncio.run(read_status(world.store, now_s=0))
    assert status == {"users": NUM_USERS, "epoch": None, "layers": []}
    assert "python -m offline refresh" in render_status(status)


def test_status_lists_the_layers_with_their_age(world: ImportedWorld) -> None:
    base = world.night()
    delta = world.night(num_users=3)
    now_s = delta["created_at"] + 7200
    status = asyncio.run(read_status(world.store, now_s=now_s))
    assert [(layer["layer"], layer["age_s"]) for layer in status["layers"]] == [
        ("delta", 7200),
        ("base", now_s - base["created_at"]),
    ]
    text = render_status(status)
    assert "epoch 2" in text
    assert f"generation {delta['generation']}" in text
    assert "2 hours old" in text
