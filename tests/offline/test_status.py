"""`python -m offline status`: live layers and their age."""

import asyncio

import pytest

from models.store.gate_report import GateReport, Verdict
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
    gates = status["gates"]
    assert gates["generation"] == delta["generation"]
    num = len(gates["gates"])
    assert f"gates  generation {delta['generation']}  {num} of {num} passed" in text


def test_status_names_the_gates_that_failed_and_the_reason_for_overruling(
    world: ImportedWorld,
) -> None:
    world.night()
    failed = Verdict(name="coverage", value=0.5, expected=">= 0.9", has_passed=False)
    passed = Verdict(name="empty", value=None, expected="<= 0.1", has_passed=True)
    report = GateReport(generation=7, forced="a test", gates=(failed, passed))
    asyncio.run(world.store.write_gates(report))
    text = render_status(asyncio.run(read_status(world.store, now_s=0)))
    assert "gates  generation 7  1 of 2 passed, overruled: a test" in text
    assert "coverage 0.5, expected >= 0.9" in text
    assert "empty" not in text
