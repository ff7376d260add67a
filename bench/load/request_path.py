"""`python -m bench path`: CPU time of each part of one request.

Requests are sent one at a time, for users with cached histories. The whole request and the empty
route are measured on a real service process. Encoding and finish are the timings in its answers.
Reading the store and writing JSON are repeated here, by the same code on the same Redis. The rest
of the whole is routing, validation, the ladder, metrics and middleware.
"""

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from bench.common.command_line import add_data, add_json, add_release, make_parser
from bench.common.results import Row, open_console, print_table, write_json, write_markdown
from bench.common.service_process import HOST, ServiceProcess, StepFailedError
from bench.load.http_connection import Address, Connection, render
from bench.load.latency import take_cores
from bench.load.population import populate
from models.release.release import Release
from models.store.embedded import attach
from models.store.redis_store import RedisStore

WHOLE, REST = "the whole request", "routing, validation, ladder, metrics, middleware"
_USERS, _TIMEOUT_MS = 200, 1000
_COLUMNS = ("name", "cpu_us", "share")
_EMPTY = "/health/live"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    cores = take_cores()
    release = Release.load(options.release)
    with tempfile.TemporaryDirectory(prefix="path-") as folder, attach(Path(folder)) as server:
        user_ids = populate(server.url, options.data, release, num_users=_USERS, seed=0)
        command = ["--release", str(options.release), "--redis", server.url]
        log = Path(folder) / "service.log"
        with ServiceProcess(command, log=log, core=cores.service) as service:
            service.wait_until_ready()
            parts = asyncio.run(_parts(service, server.url, release, user_ids, options.requests))
    rows = table(parts)
    title = f"CPU of one request in microseconds, {options.requests:,} requests"
    print_table(open_console(), title, rows, _COLUMNS)
    if options.json:
        meta = {"command": "path", "release": f"{release.name}@{release.version}"}
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, _COLUMNS)
    return 0


def table(us: dict[str, float]) -> list[Row]:
    """Return rows of the parts, the rest, and the whole; `us` has the whole under WHOLE."""
    whole = us[WHOLE]
    parts = {name: value for name, value in us.items() if name != WHOLE}
    named = {**parts, REST: whole - sum(parts.values()), WHOLE: whole}
    return [
        {"name": name, "cpu_us": value, "share": value / whole} for name, value in named.items()
    ]


async def _parts(
    service: ServiceProcess,
    redis_url: str,
    release: Release,
    user_ids: Sequence[str],
    num_requests: int,
) -> dict[str, float]:
    connection = Connection(Address(HOST, service.port))
    asked = [render("GET", f"/recommend/{quote(user_id, safe='')}") for user_id in user_ids]
    for request in asked:  # caches the histories
        await _get(connection, request)
    whole = await _process_us(service, connection, asked, num_requests)
    empty = await _process_us(service, connection, [render("GET", _EMPTY)], num_requests)
    answers = [await _get(connection, request) for request in asked]
    connection.close()

    async def write(answer: Any) -> bytes:
        return orjson.dumps(answer)

    return {
        "HTTP and ASGI (an empty route)": empty,
        "store (one round trip)": await _store_us(redis_url, release, user_ids, num_requests),
        "history (kept)": _median_us(answers, "encode"),
        "finish": _median_us(answers, "finish"),
        "JSON": await _own_us(write, answers, num_requests),
        WHOLE: whole,
    }


def _median_us(answers: Sequence[Any], stage: str) -> float:
    return 1000 * float(np.median([answer["timings_ms"][stage] for answer in answers]))


async def _get(connection: Connection, request: bytes) -> Any:
    answer = await connection.exchange(request)
    if answer is None or answer.status != 200:
        raise StepFailedError(f"the service answered {answer and answer.status}, expected 200")
    return orjson.loads(answer.body)


async def _process_us(
    service: ServiceProcess, connection: Connection, requests: Sequence[bytes], num_requests: int
) -> float:
    """Return CPU microseconds of the service process per request."""
    before = service.cpu_seconds()
    for request in itertools.islice(itertools.cycle(requests), num_requests):
        await _get(connection, request)
    return 1e6 * (service.cpu_seconds() - before) / num_requests


async def _store_us(
    redis_url: str, release: Release, user_ids: Sequence[str], num_requests: int
) -> float:
    """Return CPU microseconds of reading a user that this process has read before."""
    store = RedisStore(redis_url, _TIMEOUT_MS)
    try:
        manifest = await store.read_manifest()
        assert manifest is not None
        layers = [layer.generation for layer in manifest.layers]
        known = {
            user_id: await store.read_user(user_id, layers, release.space) for user_id in user_ids
        }

        async def read(user_id: str) -> object:
            return await store.read_user(user_id, layers, release.space, known=known[user_id])

        return await _own_us(read, user_ids, num_requests)
    finally:
        await store.close()


async def _own_us(
    call: Callable[[Any], Awaitable[object]], arguments: Sequence[Any], num_calls: int
) -> float:
    """Return CPU microseconds of this process per call."""
    before = time.process_time()
    for argument in itertools.islice(itertools.cycle(arguments), num_calls):
        await call(argument)
    return 1e6 * (time.process_time() - before) / num_calls


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("path", __doc__)
    add = parser.add_argument
    add_release(parser)
    add_data(parser)
    add("--requests", type=int, default=5000, metavar="N", help="(default: %(default)s)")
    add_json(parser, has_markdown=True)
    return parser
