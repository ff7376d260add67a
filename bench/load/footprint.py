"""`python -m bench footprint`: bytes per user in Redis, and memory of a service process.

The memory of an empty server is subtracted from that of a filled one and divided by the users.
Keys, times to live and Redis' own bookkeeping are included. Users are synthetic.
"""

import argparse
import asyncio
import hashlib
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.common.command_line import add_json, add_release, make_parser
from bench.common.results import Row, open_console, print_table, write_json, write_markdown
from bench.common.service_process import ServiceProcess
from bench.common.synthetic_users import THOUGHT, as_json, draw_record, user_id
from models.release.release import Release
from models.store.embedded import attach
from models.store.events import Event
from models.store.keys import DEFAULT_KEYS, UserRow
from models.store.records import PrefixRecord
from models.store.redis_store import RedisStore
from models.store.wire import Command, Wire, read_address

PREFIXES = (32, 100)
THOUGHTS = (1, 5)
EVENTS = (9, 50)  # in a history: the mean of Beauty, and the maximum that the models read
_TIMEOUT_MS = 30_000
_TTL_S = 3 * 24 * 3600
_BATCH = 500
_COLUMNS = ("name", "bytes_per_user", "rss_mb")


class _Target(NamedTuple):
    store: RedisStore
    wire: Wire
    release: Release
    generation: int


_Fill = Callable[[_Target, range], Coroutine[None, None, None]]


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    release = Release.load(options.release)
    rows = measure_bytes(release, options.users)
    rows.append({"name": "service", "rss_mb": _measure_service(options.release)})
    title = "bytes per user in Redis, and memory of a service after its start"
    print_table(open_console(), title, rows, _COLUMNS)
    if options.json:
        meta = {
            "command": "footprint",
            "release": f"{release.name}@{release.version}",
            "users": options.users,
        }
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, _COLUMNS)
    return 0


def measure_bytes(release: Release, num_users: int) -> list[Row]:
    """Return rows of the record, of a JSON text with its content, of thoughts and of histories."""
    fills: dict[str, _Fill] = {}
    for count in PREFIXES:
        fills[f"record_{count}"] = partial(_write_records, num_prefixes=count, num_thoughts=0)
        fills[f"json_{count}"] = partial(_write_json, num_prefixes=count)
    for count in THOUGHTS:
        fills[f"thoughts_{count}"] = partial(_write_records, num_prefixes=32, num_thoughts=count)
    for count in EVENTS:
        fills[f"history_{count}"] = partial(_write_histories, num_events=count)
    sizes = {name: _measure_one(release, fill, num_users) for name, fill in fills.items()}
    for count in THOUGHTS:
        sizes[f"thoughts_{count}"] -= sizes["record_32"]  # thoughts were written with records
    return [{"name": name, "bytes_per_user": size} for name, size in sizes.items()]


def _measure_one(release: Release, fill: _Fill, num_users: int) -> float:
    with tempfile.TemporaryDirectory(prefix="bytes-") as folder, attach(Path(folder)) as server:
        return asyncio.run(_measure_fill(server.url, release, fill, num_users))


async def _measure_fill(redis_url: str, release: Release, fill: _Fill, num_users: int) -> float:
    before = await _used_bytes(redis_url)
    store, wire = RedisStore(redis_url, _TIMEOUT_MS), Wire(read_address(redis_url), 30.0)
    target = _Target(store, wire, release, generation=time.time_ns() // 1_000_000)
    for start in range(0, num_users, _BATCH):
        await fill(target, range(start, min(start + _BATCH, num_users)))
    await wire.close()
    await store.close()
    return (await _used_bytes(redis_url) - before) / num_users


async def _used_bytes(redis_url: str) -> int:
    """Return the memory in use, over a connection of its own: others leave large buffers."""
    store = RedisStore(redis_url, _TIMEOUT_MS)
    used = (await store.memory()).used
    await store.close()
    return used


async def _write_records(
    target: _Target, numbers: range, *, num_prefixes: int, num_thoughts: int
) -> None:
    rows = [
        UserRow(user_id(at), _draw(target, at, num_prefixes), _draw_texts(target, at, num_thoughts))
        for at in numbers
    ]
    await target.store.write_layer(target.generation, rows, _TTL_S)


async def _write_json(target: _Target, numbers: range, *, num_prefixes: int) -> None:
    await target.wire.ask(
        *(_set_json(_draw(target, at, num_prefixes), user_id(at)) for at in numbers)
    )


async def _write_histories(target: _Target, numbers: range, *, num_events: int) -> None:
    await target.store.append_histories(
        {user_id(at): _draw_history(target.release, at, num_events) for at in numbers},
        is_logged=False,
    )


def _draw(target: _Target, number: int, num_prefixes: int) -> PrefixRecord:
    return draw_record(
        target.release, generation=target.generation, num_prefixes=num_prefixes, start=number
    )


def _draw_texts(target: _Target, number: int, count: int) -> tuple[str, ...]:
    """Return texts of thoughts: a shared first one, then ones that name categories."""
    paths = target.release.catalog.categories
    named = [" > ".join(paths[(number * 31 + at) % len(paths)]) for at in range(3 * count)]
    own = (
        f"The user likes {named[3 * at]}; {named[3 * at + 1]}. Next: {named[3 * at + 2]}."
        for at in range(1, count)
    )
    return (THOUGHT, *own) if count else ()


def _draw_history(release: Release, number: int, count: int) -> list[Event]:
    """Return events with ids of the length of imported ones."""
    items = release.catalog.item_ids
    return [
        Event(
            item_id=items[(number * 31 + at) % len(items)],
            timestamp=1_400_000_000 + 86_400 * at,
            event_id=hashlib.blake2b(f"{number} {at}".encode(), digest_size=8).hexdigest(),
        )
        for at in range(count)
    ]


def _set_json(record: PrefixRecord, user: str) -> Command:
    key = DEFAULT_KEYS.record(user, record.generation)
    return ("SET", key, as_json(record, user), "EX", _TTL_S)


def _measure_service(release_dir: Path) -> float:
    """Return the megabytes of a ready process with empty caches (Linux)."""
    with tempfile.TemporaryDirectory(prefix="rss-") as folder, attach(Path(folder)) as server:
        command = ["--release", str(release_dir), "--redis", server.url]
        with ServiceProcess(command, log=Path(folder) / "service.log") as service:
            service.wait_until_ready()
            return service.resident_mb()


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("footprint", __doc__)
    add = parser.add_argument
    add_release(parser)
    add("--users", type=int, default=20_000, metavar="N", help="users in Redis, to count bytes")
    add_json(parser, has_markdown=True)
    return parser
