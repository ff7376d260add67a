"""Parts of several workers: places, sockets, channel, pauses, and one page of metrics."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from models.errors import InvalidSettings
from service.settings import EffectiveSettings, load_settings, resolve_settings
from service.telemetry.merged_metrics import (
    Snapshot,
    merge,
    only_counts,
    read_snapshot,
    render,
    take_snapshot,
)
from service.workers import listeners
from service.workers.assignment import Assignment, choose_cores, read_assignment
from service.workers.channel import Answers, Channel, ChannelError
from service.workers.slot import Backoff
from tests.fakes.service_harness import read_metric

SECRET = "a secret of all workers"


@pytest.fixture
def effective() -> EffectiveSettings:
    environ = {"THINKAHEAD_CURSOR_SECRET": SECRET}
    experiments = '[{"name": "test", "share": 1, "arms": [{"name": "only"}]}]'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THINKAHEAD_CURSOR_SECRET", SECRET)
        patch.setenv("THINKAHEAD_EXPERIMENTS", experiments)
        return resolve_settings(["--release", "here", "--workers", "2"], environ)


def test_a_worker_has_the_settings_of_its_supervisor_secrets_too(
    effective: EffectiveSettings,
) -> None:
    ours, theirs = socket.socketpair()
    place = {"index": 1, "core": None, "port": 8000, "listener": None, "admin_listener": None}
    with ours, theirs:
        ours.sendall(Assignment.of(effective, **place).encode())
        assignment = read_assignment(theirs)
    assert assignment.effective == effective
    assert assignment.effective.settings.cursor_secret is not None
    assert assignment.effective.settings.cursor_secret.get_secret_value() == SECRET


def test_a_worker_whose_supervisor_has_ended_reads_no_place() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(EOFError):
        read_assignment(theirs)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux pins processes")
def test_workers_are_pinned_where_there_are_cores_for_all() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert choose_cores(len(cores), is_pinned=True) == cores
    assert choose_cores(len(cores), is_pinned=False) == [None] * len(cores)
    assert choose_cores(len(cores) + 1, is_pinned=True) == [None] * (len(cores) + 1)


def test_the_number_of_workers_is_a_setting() -> None:
    assert load_settings(["--release", "here"], {}).workers == 1
    with pytest.raises(InvalidSettings, match=r"--workers: .*greater than or equal to 1"):
        load_settings(["--release", "here", "--workers", "0"], {})


@pytest.mark.skipif(not listeners.CAN_DIVIDE, reason="the kernel divides connections on Linux only")
def test_a_port_of_workers_takes_no_second_service_and_no_connection_before_they_listen() -> None:
    with listeners.reserve("127.0.0.1", 0) as reserved:
        host, port = reserved.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port))
        with listeners.bind(host, port, is_divided=True) as worker:
            worker.listen()
            socket.create_connection((host, port)).close()
            with pytest.raises(InvalidSettings, match=f"cannot listen on {host}:{port}"):
                listeners.reserve(host, port)


def test_workers_share_one_socket_where_the_kernel_divides_nothing(
    monkeypatch: pytest.MonkeyPatch, effective: EffectiveSettings
) -> None:
    monkeypatch.setattr(listeners, "CAN_DIVIDE", False)
    with listeners.reserve("127.0.0.1", 0) as shared:
        place = {"index": 0, "core": None, "port": 0, "admin_listener": None}
        inherited = os.dup(shared.fileno())  # as a process that was started with it has
        assignment = Assignment.of(effective, listener=inherited, **place)
        with assignment.open_listener() as own:
            assert own.getsockname() == shared.getsockname()


def test_pauses_double_and_begin_again_behind_a_long_run() -> None:
    backoff = Backoff()
    assert [backoff.next_pause(ran_s=1) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert max(backoff.next_pause(ran_s=1) for _ in range(20)) == 30
    assert backoff.next_pause(ran_s=3600) == 0.1


@asynccontextmanager
async def two_ends(answers: Answers) -> AsyncIterator[tuple[Channel, Channel]]:
    one, other = socket.socketpair()
    ends = await Channel.on(one, {}), await Channel.on(other, answers)
    running = [asyncio.create_task(end.run()) for end in ends]
    yield ends
    for task in running:
        task.cancel()


async def test_both_ends_ask_and_a_failure_is_an_answer() -> None:
    async def ok() -> Any:
        return {"workers": [0, 1]}

    async def bad() -> Any:
        raise ValueError("no\nsuch thing")

    async def never() -> Any:
        await asyncio.Event().wait()

    async with two_ends({"ok": ok, "bad": bad, "never": never}) as (asking, _):
        assert await asking.ask("ok") == {"workers": [0, 1]}
        with pytest.raises(ChannelError, match="ValueError: no such thing"):
            await asking.ask("bad")
        with pytest.raises(ChannelError, match=r"no answer to 'never' within 0\.01 s"):
            await asking.ask("never", timeout_s=0.01)


async def test_an_open_question_fails_when_the_other_end_closes() -> None:
    one, other = socket.socketpair()
    channel = await Channel.on(one, {})
    running = asyncio.create_task(channel.run())
    asking = asyncio.create_task(channel.ask("page"))
    await asyncio.sleep(0)
    other.close()
    with pytest.raises(ChannelError, match="has ended"):
        await asking
    await running
    with pytest.raises(ChannelError, match="has ended"):
        await channel.ask("page")


def snapshot_of(requests: int, *, gauge: float) -> Snapshot:
    """Metrics of one process, as they arrive over a channel."""
    registry = CollectorRegistry()
    Counter("answers", "Answers.", ["route"], registry=registry).labels("/x").inc(requests)
    Histogram("seconds", "Seconds.", buckets=(1, 2), registry=registry).observe(1.5)
    for name in ("load", "late", "epoch"):
        Gauge(name, name, registry=registry).set(gauge)
    taken = take_snapshot(registry, {"late": "max", "epoch": "min"})
    return read_snapshot([vars(family) for family in taken])


def test_counts_add_up_and_each_gauge_is_merged_as_it_says() -> None:
    page = render(
        merge([snapshot_of(3, gauge=2.0), snapshot_of(4, gauge=5.0)]), CollectorRegistry()
    ).decode()
    assert read_metric(page, 'answers_total{route="/x"}') == 7
    assert read_metric(page, 'seconds_bucket{le="1.0"}') == 0
    assert read_metric(page, 'seconds_bucket{le="2.0"}') == 2
    assert read_metric(page, "seconds_sum") == 3.0
    assert [read_metric(page, name) for name in ("load", "late", "epoch")] == [7.0, 5.0, 2.0]


def test_of_an_ended_process_the_counts_stay() -> None:
    ended = only_counts(snapshot_of(3, gauge=9.0))
    page = render(merge([snapshot_of(1, gauge=2.0), ended]), CollectorRegistry()).decode()
    assert read_metric(page, 'answers_total{route="/x"}') == 4
    assert read_metric(page, "load") == 2.0
