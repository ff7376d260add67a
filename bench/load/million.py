"""`python -m bench million`: a night of very many users goes live while the service answers.

The night is loaded, verified, activated and rolled back. The service has one core alone. Redis, the
loading process and the generator share another core, so the load slows the answers more than on
separate machines. The bytes per user in Redis are measured too.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.common.command_line import add_json, add_release, add_seed, make_parser
from bench.common.results import Row, open_console, print_table, write_json, write_markdown
from bench.common.service_process import HOST, ServiceProcess, StepFailedError
from bench.common.synthetic_users import user_id, write_generation
from bench.load.arrivals import Mix, draw_requests
from bench.load.footprint import measure_bytes
from bench.load.http_connection import Address
from bench.load.latency import take_cores
from bench.load.open_loop import Outcome, run_open_loop
from bench.load.rate_sweep import Spent, describe
from models.release.release import Release
from models.store.embedded import attach
from models.store.redis_store import RedisStore

_TIMEOUT_MS = 30_000
_NUM_ASKING = 20_000  # users in the requests
_WINDOW_S = 5.0
_EVERY_USER = {"load", "verify", "activate"}  # steps that touch all users
_COLUMNS = (
    *("name", "seconds", "users_per_s", "p50_ms", "p99_ms", "p999_ms", "share_personal"),
    "bytes_per_user",
)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    cores, release, console = take_cores(), Release.load(options.release), open_console()
    rows = measure_bytes(release, options.bytes_users)
    with tempfile.TemporaryDirectory(prefix="million-") as folder, attach(Path(folder)) as server:
        world = _World(options, release, server.url, Path(folder) / "generations")
        rows.append(load_alone(world))
        command = ["--release", str(options.release), "--redis", server.url]
        log = Path(folder) / "service.log"
        with ServiceProcess(command, log=log, core=cores.service) as service:
            service.wait_until_ready()
            rows += run_nights(world, service)
    title = f"{options.users:,} synthetic users, {options.prefixes} prefixes each"
    print_table(console, title, rows, _COLUMNS)
    if options.json:
        meta = {"command": "million", "users": options.users, "rate": options.rate}
        meta |= {"service_core": cores.service, "other_core": cores.generator}
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, _COLUMNS)
    return 0


class _World:
    """Runs commands of the offline tier on one server and one folder."""

    def __init__(
        self, options: argparse.Namespace, release: Release, redis_url: str, out_dir: Path
    ) -> None:
        self.options = options
        self.release = release
        self._redis_url = redis_url
        self._out_dir = out_dir

    def used_bytes(self) -> int:
        async def ask() -> int:
            store = RedisStore(self._redis_url, _TIMEOUT_MS)
            used = (await store.memory()).used
            await store.close()
            return used

        return asyncio.run(ask())

    def write(self, *, seed: int) -> int:
        return write_generation(
            self._out_dir,
            self.release,
            num_users=self.options.users,
            num_prefixes=self.options.prefixes,
            seed=seed,
        )

    def start(self, command: str, generation: int | None = None) -> "RunningCommand":
        words = ["--redis", self._redis_url, "--out", str(self._out_dir)]
        if generation is not None:
            words += ["--generation", str(generation), "--release", str(self.options.release)]
        if command == "activate":  # two nights of random prefixes do not overlap
            words += ["--gate", "overlap=0"]
        return RunningCommand(command, words)

    def run(self, command: str, generation: int | None = None) -> dict[str, Any]:
        return self.start(command, generation).finish()


class RunningCommand:
    """A running `python -m offline COMMAND ...`."""

    def __init__(self, command: str, words: Sequence[str]) -> None:
        self.ended_at: float | None = None
        self._command = command
        self._process = subprocess.Popen(
            [sys.executable, "-m", "offline", command, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said = ("", "")
        self._waiting = threading.Thread(target=self._wait)
        self._waiting.start()

    def finish(self) -> dict[str, Any]:
        """Wait for the end and return the printed JSON.

        Raises StepFailedError unless the command exits with 0.
        """
        self._waiting.join()
        said, complaint = self._said
        if self._process.returncode:
            last = complaint.strip().splitlines()[-1:] or ["it said nothing"]
            raise StepFailedError(f"python -m offline {self._command}: {last[0]}")
        found: dict[str, Any] = json.loads(said)
        return found

    def _wait(self) -> None:
        self._said = self._process.communicate()
        self.ended_at = time.monotonic()


def load_alone(world: _World) -> Row:
    """Take the first night live without requests; bytes per user are of record and thoughts."""
    first = world.write(seed=world.options.seed)
    before, started = world.used_bytes(), time.monotonic()
    world.run("load", first)
    seconds, num_users = time.monotonic() - started, world.options.users
    size = (world.used_bytes() - before) / num_users
    print(f"load_alone {seconds:7.1f} s, {size:.1f} bytes per user")
    world.run("activate", first)
    rate = num_users / seconds
    return {"name": "load_alone", "seconds": seconds, "users_per_s": rate, "bytes_per_user": size}


def run_nights(world: _World, service: ServiceProcess) -> list[Row]:
    """Measure answers without a night, then during each step of the second night."""
    asked = _EvenLoad(world, service)
    rows = [asked.until("quiet", asked.for_seconds(world.options.seconds))]
    second = world.write(seed=world.options.seed + 1)
    for command, generation in (
        ("load", second),
        ("verify", second),
        ("activate", second),
        ("rollback", None),
    ):
        running = world.start(command, generation)
        rows.append(asked.until(command, partial(getattr, running, "ended_at")))
        running.finish()
    return rows


class _EvenLoad:
    """Sends an even load to the service, window by window, until a step ends."""

    def __init__(self, world: _World, service: ServiceProcess) -> None:
        options = world.options
        step = max(options.users // _NUM_ASKING, 1)
        users = [user_id(number) for number in range(0, options.users, step)]
        self._mix = Mix(users, world.release.catalog.item_ids, event_share=0.0)
        self._options = options
        self._service = service
        self._num_windows = 0

    def for_seconds(self, seconds: float) -> Callable[[], float | None]:
        end = time.monotonic() + seconds
        return lambda: end if time.monotonic() > end else None

    def until(self, name: str, ended_at: Callable[[], float | None]) -> Row:
        started, generator_s = time.monotonic(), time.process_time()
        service_s = self._service.cpu_seconds()
        outcomes: list[Outcome] = []
        over_at, asked_s = None, 0.0
        while over_at is None:
            outcomes += self._ask()
            asked_s += self._options.window
            over_at = ended_at()
        spent = Spent(
            service_s=self._service.cpu_seconds() - service_s,
            generator_s=time.process_time() - generator_s,
        )
        row = describe(name, outcomes, rate=self._options.rate, seconds=asked_s, spent=spent)
        lasted_s = over_at - started
        print(f"{name:9} {lasted_s:8.1f} s, p99 of the answers {row['p99_ms']:.1f} ms")
        touched = {"users_per_s": self._options.users / lasted_s} if name in _EVERY_USER else {}
        return {**row, "seconds": lasted_s, **touched}

    def _ask(self) -> list[Outcome]:
        self._num_windows += 1
        options = self._options
        requests = draw_requests(
            self._mix, rate=options.rate, seconds=options.window, seed=self._num_windows
        )
        return run_open_loop(Address(HOST, self._service.port), requests)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("million", __doc__)
    add = parser.add_argument
    add_release(parser)
    add("--users", type=int, default=1_000_000, metavar="N", help="(default: %(default)s)")
    add("--prefixes", type=int, default=32, metavar="P", help="per user")
    add(
        "--bytes-users",
        type=int,
        default=20_000,
        metavar="N",
        help="users in Redis, to count bytes",
    )
    add("--rate", type=int, default=50, metavar="R", help="requests/s to the service")
    add("--seconds", type=float, default=30.0, metavar="S", help="before the first step")
    add(
        "--window",
        type=float,
        default=_WINDOW_S,
        metavar="S",
        help="requests are drawn for S seconds at a time",
    )
    add_seed(parser)
    add_json(parser, has_markdown=True)
    return parser
