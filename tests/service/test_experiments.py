"""Experiments: assignment of users to arms, effects of an arm, logs and metrics."""

import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy import stats

from bench.ab import ab
from models.errors import InvalidSettings, ReleaseMismatch
from models.store.records import hash_user
from service.recommend.engine import Engine
from service.recommend.experiments import Choice, Experiment, Experiments
from service.reload import load_arms
from service.settings import ServiceSettings, load_settings
from service.sources import Mode
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    GENERATION,
    RedisServer,
    ServiceProcess,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    serving,
    some_prefixes,
    toy_engine,
    toy_release_dir,
)

USERS = [f"user-{number}" for number in range(20_000)]
NEWER = GENERATION + 1


def experiment(name: str = "test", share: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"name": name, "share": share, "arms": [{"name": "a"}, {"name": "b"}], **more}


def experiments(*given: dict[str, Any]) -> Experiments:
    return Experiments([Experiment.model_validate(each) for each in given])


def arms(of: Experiments, name: str = "test") -> dict[str, str]:
    """Arm by user, for the users in the experiment."""
    return {
        user: exposure.arm
        for user in USERS
        for exposure in of.choose(user).exposures
        if exposure.experiment == name
    }


def test_users_fall_into_arms_by_share_and_weight() -> None:
    weighted = [{"name": "a", "weight": 3}, {"name": "b", "weight": 1}]
    found = Counter(arms(experiments(experiment(share=0.4, arms=weighted))).values())
    assert sum(found.values()) == pytest.approx(8000, abs=300)
    assert found["a"] == pytest.approx(6000, abs=250)


def test_a_user_stays_in_an_arm_when_the_share_grows_or_others_come() -> None:
    before = arms(experiments(experiment(share=0.2)))
    grown = arms(experiments(experiment(share=0.5), experiment("other", layer="elsewhere")))
    assert before.items() <= grown.items()
    assert len(grown) > 2 * len(before)


def test_another_salt_deals_the_same_users_anew() -> None:
    first = arms(experiments(experiment(share=0.5)))
    second = arms(experiments(experiment(share=0.5, salt="again")))
    assert first.keys() == second.keys()
    same = sum(first[user] == second[user] for user in first)
    assert same / len(first) == pytest.approx(0.5, abs=0.03)


def test_experiments_of_one_layer_have_no_user_in_common() -> None:
    both = experiments(experiment("one", 0.3), experiment("two", 0.3))
    one, two = arms(both, "one"), arms(both, "two")
    assert len(one) == pytest.approx(6000, abs=300)
    assert len(two) == pytest.approx(6000, abs=300)
    assert not one.keys() & two.keys()


def test_experiments_of_two_layers_are_independent() -> None:
    both = experiments(experiment("one", layer="x"), experiment("two", layer="y"))
    one, two = arms(both, "one"), arms(both, "two")
    table = np.array([[0, 0], [0, 0]])
    for user in USERS:
        table["ab".index(one[user]), "ab".index(two[user])] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_users_and_arms_are_independent_of_a_canary_and_of_the_arms_of_others() -> None:
    """Two experiments one after the other over the same users must not have the same arms."""
    later = arms(experiments(experiment("later", share=0.5)), "later")
    earlier = arms(experiments(experiment(share=0.5)))
    same = [later[user] == earlier[user] for user in later]
    assert np.mean(same) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([experiment(), experiment()], "two experiments are called test"),
        ([experiment("one", 0.6), experiment("two", 0.6)], "shares go to 1.2"),
        ([experiment("one", 0.5), experiment("two", 0.1, start=0.4)], "one and two overlap"),
        (
            [
                experiment("one", layer="x", arms=[{"name": "a", "mode": "union"}]),
                experiment("two", layer="y", arms=[{"name": "a", "mode": "strict"}]),
            ],
            "one and two both choose mode",
        ),
        ([experiment(arms=[{"name": "a"}, {"name": "a"}])], "two arms are called a"),
        ([experiment(arms=[])], "arms"),
        ([experiment(share=0)], "share"),
        ([experiment(arms=[{"name": "a", "mod": "union"}])], "experiments.0.arms.0.mod"),
        ([experiment("no good")], "experiments.0.name"),
    ],
)
def test_experiments_that_cannot_run_are_refused_at_the_start(
    tmp_path: Path, given: list[dict[str, Any]], why: str
) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(json.dumps({"release_dir": "x", "experiments": given}))
    with pytest.raises(InvalidSettings, match=why) as caught:
        load_settings(["--config", str(file)], {})
    assert str(file) in str(caught.value)


def test_shares_of_a_third_fill_a_layer() -> None:
    thirds = [experiment(name, 1 / 3) for name in ("one", "two", "three")]
    assert {len(experiments(*thirds).choose(user).exposures) for user in USERS} <= {0, 1}


def test_caps_keep_low_paths_and_the_best_prefixes() -> None:
    record = new_record(prefixes=some_prefixes(6))
    kept = Choice(paths=4).cap(record)
    assert kept is not None
    assert [prefix.path for prefix in kept.prefixes] == [0, 1, 2, 3]
    fewer = Choice(paths=4, prefixes=3).cap(record)
    assert fewer is not None
    assert fewer.prefixes == record.prefixes[:3]
    assert Choice(generation="none").cap(record) is None


async def store_of_a_user() -> MemoryStore:
    """One user with a history and, in two generations, different prefixes."""
    store = MemoryStore()
    await give_history(store, "user", item_ids(3))
    table = some_prefixes(6)
    await give_record(store, "user", new_record(prefixes=table[:3]))
    await give_record(store, "user", new_record(generation=NEWER, prefixes=table[3:]))
    await activate(store, NEWER, GENERATION)
    return store


def one_arm(**chosen: Any) -> dict[str, Any]:
    return {"experiments": [experiment(arms=[{"name": "only", **chosen}])]}


def prefixes_of(answer: dict[str, Any]) -> set[tuple[int, ...]]:
    return {tuple(item["sid"][:2]) for item in answer["items"] if item["path"] is not None}


async def test_an_arm_chooses_the_generation() -> None:
    store = await store_of_a_user()
    for chosen, expected in ((None, NEWER), (GENERATION, GENERATION), ("live", NEWER)):
        async with serving(store, **one_arm(generation=chosen)) as service:
            answer = await service.recommend("user")
            assert answer["generation"]["id"] == expected
    async with serving(store, **one_arm(generation="none")) as service:
        answer = await service.recommend("user")
        assert (answer["source"], answer["degraded"]) == ("online", False)
        assert answer["experiment"] == [{"name": "test", "arm": "only"}]


async def test_an_arm_chooses_the_canary_for_whom_its_hash_would_not() -> None:
    store = await store_of_a_user()
    held = await store.read_manifest()
    assert held is not None
    layers = {"percent": 1e-9, "layers": [held.layers[1].model_dump()]}
    raw = held.model_dump() | {"epoch": 2, "canary": layers}
    await store.swap_manifest(held, type(held).model_validate(raw))
    for chosen, expected in (("live", NEWER), ("canary", GENERATION)):
        async with serving(store, **one_arm(generation=chosen)) as service:
            assert (await service.recommend("user"))["generation"]["id"] == expected


async def test_an_arm_caps_the_prefixes_that_are_finished() -> None:
    store = await store_of_a_user()
    async with serving(store, **one_arm(prefixes=1)) as service:
        found = prefixes_of(await service.recommend("user", n=100))
    assert found == {some_prefixes(6)[3]}


async def test_an_arm_chooses_the_mode_and_a_request_that_names_one_is_in_no_experiment() -> None:
    store = await store_of_a_user()
    async with serving(store, mode="strict") as service:
        plain = [await service.recommend("user", mode=mode) for mode in Mode]
    async with serving(store, **one_arm(mode="union")) as service:
        answer = await service.recommend("user")
        asked = await service.recommend("user", mode="strict")
    strict, union, fused = plain
    assert fused["items"] == union["items"], "the record holds no items"
    assert answer["items"] == union["items"] != strict["items"]
    assert asked["items"] == strict["items"]
    assert answer["experiment"] == [{"name": "test", "arm": "only"}]
    assert asked["experiment"] == []


async def test_an_arm_chooses_a_release() -> None:
    chosen = one_arm(release=str(toy_release_dir()))
    settings = ServiceSettings(release_dir=toy_release_dir(), **chosen)
    arms_by_path = load_arms(settings, toy_engine())
    assert list(arms_by_path) == [toy_release_dir()]
    other = ServiceSettings(release_dir=toy_release_dir(), **one_arm(release="releases/beauty"))
    with pytest.raises(ReleaseMismatch, match="SID space"):
        load_arms(other, toy_engine())


async def test_the_answers_of_an_arm_come_from_its_release() -> None:
    release = toy_engine().release
    manifest = release.manifest.model_copy(update={"name": "other"})
    other = Engine(replace(release, manifest=manifest), toy_engine().finisher)
    given = {"name": "a", "release": "elsewhere"}
    config: dict[str, Any] = {"experiments": [experiment(arms=[given, {"name": "b"}])]}
    store = await store_of_a_user()
    async with serving(store, arms={Path("elsewhere"): other}, **config) as service:
        answers = [await service.recommend(f"user-{number}") for number in range(20)]
    by_arm = {(each["experiment"][0]["arm"], each["release"].split("@")[0]) for each in answers}
    assert by_arm == {("a", "other"), ("b", "toy")}


async def test_an_exposure_is_counted_and_logged_without_history_and_plain_user_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = await store_of_a_user()
    caplog.set_level(logging.INFO)
    async with serving(store, **one_arm(generation="live")) as service:
        answer = await service.recommend("user", n=3)
        sample = 'thinkahead_exposures_total{arm="only",experiment="test"}'
        assert await service.metric(sample) == 1
        assert (await service.recommend("nobody"))["experiment"] != []
    record = next(each for each in caplog.records if each.message == "exposure")
    fields: dict[str, Any] = record.__dict__["fields"]
    assert fields["items"] == [item["item_id"] for item in answer["items"]]
    assert (fields["experiment"], fields["arm"], fields["share"]) == ("test", "only", 1.0)
    assert fields["user"] == f"{hash_user('user'):016x}"
    assert not set(item_ids(3)) & set(str(fields).split("'"))


@pytest.mark.system
def test_what_a_real_service_logs_is_what_bench_ab_reads(
    server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole way: a YAML file, a process, JSON lines, events, the table."""
    config = {
        "release_dir": str(toy_release_dir()),
        "redis_url": server.url,
        "log_format": "json",
        "experiments": [experiment(arms=[{"name": "control"}, {"name": "union", "mode": "union"}])],
    }
    file = tmp_path / "service.yaml"
    file.write_text(json.dumps(config))
    events = []
    process = ServiceProcess("--config", str(file))
    with process, httpx.Client(base_url=process.url) as client:
        for number in range(40):
            answer = client.get(f"/recommend/user-{number}?n=2").json()
            item = answer["items"][0]["item_id"]
            events.append({"user_id": f"user-{number}", "item_id": item, "timestamp": 4e9})
        process.stop()
    log = tmp_path / "service.log"
    log.write_text("".join(process.log))
    lines = [json.loads(line) for line in process.log if line.startswith("{")]
    assert len(lines) == len(process.log)
    requests = [line for line in lines if line.get("route", "").startswith("/recommend")]
    assert len(requests) == 40
    exposed = [line for line in lines if line["message"] == "exposure"]
    assert {line["request_id"] for line in exposed} == {line["request_id"] for line in requests}
    assert {line["user"] for line in requests} == {line["user"] for line in exposed}
    assert "user-1" not in log.read_text()
    (tmp_path / "events").write_text("".join(json.dumps(event) + "\n" for event in events))
    arguments = ["--exposures", str(log), "--events", str(tmp_path / "events")]
    out = tmp_path / "ab.json"
    assert ab.main([*arguments, "--window-hours", "1e9", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    conversions = {row["arm"]: row["value"] for row in rows if row["metric"] == "conversion"}
    assert conversions == {"control": 1.0, "union": 1.0}
    assert "conversion union" in capsys.readouterr().out
