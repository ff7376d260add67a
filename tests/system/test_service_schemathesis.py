"""A service process over a real Redis answers any request as its OpenAPI document says.

This holds also while Redis is slow, torn, wrong and gone in turns: requests then fall to a lower
rung, or get 503 if they need the store.
"""

import asyncio
import random
import re
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx
import pytest

from bench.chaos.faults.fault import Fault, Kind
from bench.chaos.faults.proxy_process import ProxyProcess
from bench.load.http_connection import Address
from tests.fakes.api_fuzz import PHASES, fuzz_api
from tests.fakes.service_harness import (
    RedisServer,
    ServiceProcess,
    furnish_redis,
    read_metric,
    toy_release_dir,
)

PATIENCE = {"THINKAHEAD_REDIS_TIMEOUT_MS": "2000", "THINKAHEAD_REQUEST_BUDGET_MS": "5000"}
NAMED = "A2CG5Y82ZZNY6W"  # in the document's examples, so that fuzzing erases it
SPARED = "nobody-names-me"
# a machine that is busy with other things is no overload, which would be 503 as documented
UNHURRIED = {"THINKAHEAD_REQUEST_BUDGET_MS": "5000"}
FAULTS = (
    Fault(Kind.LATENCY, delay_ms=10, jitter_ms=30),  # the service waits for 20 ms
    Fault(Kind.RESET, share=0.4),
    Fault(Kind.TRUNCATE, share=0.4),
    Fault(Kind.CORRUPT, share=0.6),
    Fault(Kind.BLACK_HOLE),
    Fault(Kind.REFUSE),
    Fault(Kind.ERROR),
    Fault(Kind.ERROR, text="READONLY You can't write against a read only replica."),
    Fault(Kind.ERROR, text="OOM command not allowed when used memory > 'maxmemory'."),
)


class Weather:
    """Every fault in turn while the `with` lasts, with fair spells in which the breaker closes."""

    def __init__(self, proxy: ProxyProcess) -> None:
        self.num_faults = 0
        self._proxy = proxy
        self._rng = random.Random(1)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._change)

    def _change(self) -> None:
        while not self._is_over.is_set():
            for fault in self._rng.sample(FAULTS, len(FAULTS)):
                self._proxy.switch(fault)
                self.num_faults += 1
                self._is_over.wait(0.4)
                self._proxy.switch(Fault())
                if self._is_over.wait(0.6):
                    return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()


def num_routes(url: str) -> int:
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    return sum(len(methods) for methods in paths.values())


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        asyncio.run(furnish_redis(server.url, (NAMED, SPARED)))
        arguments = ("--release", str(toy_release_dir()), "--redis", server.url)
        with ServiceProcess(*arguments, environ=PATIENCE) as service:
            found = fuzz_api(service.url, tmp_path / "fuzz", max_examples=3)
            assert found.is_clean, found.report
            assert re.search(rf"Tested: {num_routes(service.url)}\b", found.report), found.report
            assert service.stop() == 0
        assert not [line for line in service.log if "Traceback" in line]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("max_examples", "phases"),
    [(3, ("fuzzing", "stateful")), pytest.param(30, PHASES, marks=pytest.mark.slow)],
    ids=["short", "long"],
)
def test_schemathesis_finds_nothing_while_redis_fails_in_every_way(
    max_examples: int, phases: Sequence[str], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(tmp_path))
        asyncio.run(furnish_redis(server.url, (NAMED, SPARED)))
        upstream = urlsplit(server.url)
        proxy = stack.enter_context(ProxyProcess(Address("127.0.0.1", upstream.port or 0)))
        arguments = (
            "--release",
            str(toy_release_dir()),
            "--redis",
            f"redis://127.0.0.1:{proxy.port}",
        )
        service = stack.enter_context(ServiceProcess(*arguments, environ=UNHURRIED))
        with Weather(proxy) as weather:
            while weather.num_faults < len(FAULTS):  # a fast machine is through before all faults
                found = fuzz_api(
                    service.url,
                    tmp_path / "fuzz",
                    max_examples=max_examples,
                    has_faults=True,
                    phases=phases,
                )
                assert found.is_clean, found.report
                tested = rf"Tested: {num_routes(service.url)}\b"
                assert re.search(tested, found.report), found.report
            ask_until_faults_show(service)
        expect_well(service)
    assert not [line for line in service.log if "Traceback" in line]


def ask_until_faults_show(service: ServiceProcess) -> None:
    """Ask for a user until a fault has cost an answer the store, and until the breaker has opened.

    Few of the fuzzer's requests are valid, so all of them may miss the faults.
    """
    with httpx.Client(base_url=service.url, timeout=30) as client:
        deadline = time.monotonic() + 120
        for reason in ("store", "breaker"):
            name = f'thinkahead_fallbacks_total{{reason="{reason}"}}'
            while not read_metric(client.get("/metrics").text, name):
                assert time.monotonic() < deadline, name
                assert client.get(f"/recommend/{SPARED}").status_code == 200


def expect_well(service: ServiceProcess) -> None:
    """The service was hit by faults, and is healthy again."""
    with httpx.Client(base_url=service.url, timeout=30) as client:
        deadline = time.monotonic() + 30
        while client.get(f"/recommend/{SPARED}").json()["source"] != "personal":
            assert time.monotonic() < deadline
        assert client.get("/health/ready").status_code == 200
        metrics = client.get("/metrics").text
        while read_metric(metrics, "thinkahead_outbox_events"):
            assert time.monotonic() < deadline
            metrics = client.get("/metrics").text
    for reason in ("store", "breaker"):
        assert read_metric(metrics, f'thinkahead_fallbacks_total{{reason="{reason}"}}') > 0
    assert service.stop() == 0
