"""`python -m bench demo`: the whole system on this machine, by its public commands and HTTP.

Imports the data, runs a night for some users, starts the service, and shows its answers with their
reasons for three users. Leaves no process running.
"""

import argparse
import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
from rich.console import Console
from rich.markup import escape

from bench.common.command_line import add_data, add_release, make_parser
from bench.common.service_process import ServiceProcess, StepFailedError, run_module
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.release.release import Release
from models.store.embedded import resolve, state_folder
from models.store.namespace import VARIABLE as NAMESPACE_VARIABLE
from models.store.namespace import namespace_of
from models.store.redis_store import RedisStore
from models.store.user_state import UserState

_NUM_SHOWN = 3
_NUM_TITLES = 5  # newest items of a history, prefixes of a path, recommendations
_STORE_TIMEOUT_MS = 5000


@dataclass
class Stages:
    """Timer of the demo's stages."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, in order

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.console.rule(f"[bold]{name}", align="left")
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    console = Console()
    stages = Stages(console)
    os.environ.setdefault(NAMESPACE_VARIABLE, namespace_of(options.data))
    with resolve(options.redis, None) as server:
        _run(options, stages, server.url)
    console.rule("[bold]time", align="left")
    for name, seconds in stages.seconds.items():
        console.print(f"{seconds:7.1f} s  {name}")
    return 0


def _run(options: argparse.Namespace, stages: Stages, redis_url: str) -> None:
    release = Release.load(options.release)
    redis = ["--redis", options.redis] if options.redis else []
    with stages.stage("import"):
        run_module("offline", "import", "--data", str(options.data), *redis)
    night = ["refresh", "--release", str(options.release), "--users", str(options.users)]
    with stages.stage(f"one night for {options.users} users"):
        run_module("offline", *night, *redis)
    service = ["--release", str(options.release), *redis]
    with ServiceProcess(service, log=state_folder(None) / "demo-service.log") as running:
        with stages.stage("start the service"):
            running.wait_until_ready()
        with stages.stage(f"ask for {_NUM_SHOWN} users"):
            shown = asyncio.run(_read_users(redis_url, release, options.users))
            for user_id, state in shown.items():
                answer = _ask(running.url, user_id)
                _show(stages.console, release.catalog, user_id, state, answer)


def _ask(service_url: str, user_id: str) -> dict[str, Any]:
    url = f"{service_url}/recommend/{quote(user_id, safe='')}"
    answer = httpx.get(url, params={"n": _NUM_TITLES, "explain": "true"})
    if answer.status_code != httpx.codes.OK:
        raise StepFailedError(f"GET {url} answered {answer.status_code}: {answer.text[:200]}")
    body: dict[str, Any] = answer.json()
    return body


async def _read_users(redis_url: str, release: Release, num_users: int) -> dict[str, UserState]:
    """Read some users with a record from the store, evenly spaced."""
    store = RedisStore(redis_url, _STORE_TIMEOUT_MS, namespace=os.environ[NAMESPACE_VARIABLE])
    try:
        manifest = await store.read_manifest()
        if manifest is None:
            raise StepFailedError("the store has no manifest after the night")
        layers = [layer.generation for layer in manifest.layers]
        due = (await store.user_ids())[:num_users]
        states = {user: await store.read_user(user, layers, release.space) for user in due}
    finally:
        await store.close()
    thought_about = [user for user, state in states.items() if state.record is not None]
    chosen = thought_about[:: max(1, len(thought_about) // _NUM_SHOWN)][:_NUM_SHOWN]
    return {user: states[user] for user in chosen}


def _show(
    console: Console, catalog: Catalog, user_id: str, state: UserState, answer: dict[str, Any]
) -> None:
    console.print(f"\n[bold]{_plain(user_id)}[/bold]: {len(state.history)} items, the newest")
    for event in state.history[-_NUM_TITLES:]:
        console.print(f"  · {_plain(_title(catalog, event.item_id))}")
    if answer["paths"]:
        _show_path(console, catalog, state, answer)
    timings = answer["timings_ms"]
    console.print(f"recommended by [bold]{answer['source']}[/bold], release {answer['release']}")
    for item in answer["items"]:
        score = "" if item["score"] is None else f"{item['score']:7.2f}"
        title = _plain(item["title"] or item["item_id"])
        console.print(f"  {item['rank']}. {title} [dim]{item['source']} {score}")
        if item["because"]:
            console.print(f"     [dim]because of {_plain(_title(catalog, item['because'][0]))}")
    console.print("  [dim]" + ", ".join(f"{name} {ms:.2f} ms" for name, ms in timings.items()))


def _title(catalog: Catalog, item_id: str) -> str:
    row = catalog.row(item_id)
    return item_id if row is None else catalog.titles[row] or item_id


def _show_path(
    console: Console, catalog: Catalog, state: UserState, answer: dict[str, Any]
) -> None:
    """Print the path behind the best item that has one, and the prefixes found after it."""
    texts = {path["path"]: path["text"] for path in answer["paths"]}
    used = [item["path"] for item in answer["items"] if item["path"] in texts]
    path = used[0] if used else min(texts)
    console.print(f"path {path}: [italic]{_plain(texts[path])}")
    prefixes = state.record.prefixes if state.record else ()
    for found in [prefix for prefix in prefixes if prefix.path == path][:_NUM_TITLES]:
        codes = "-".join(str(code) for code in found.codes)
        console.print(f"  {codes:>9}  {_plain(_meaning(catalog, found.codes))}")


def _meaning(catalog: Catalog, prefix: Prefix) -> str:
    """Describe a prefix by the number of its items and their most common category."""
    rows = (catalog.sids[:, : len(prefix)] == prefix).all(axis=1).nonzero()[0].tolist()
    leaves = Counter(catalog.categories[row][-1] for row in rows if catalog.categories[row])
    common = f", mostly {leaves.most_common(1)[0][0]}" if leaves else ""
    return f"{len(rows)} items{common}"


def _plain(text: str) -> str:
    """Remove terminal codes and markup: titles and thoughts are untrusted text."""
    return escape("".join(char if char.isprintable() else " " for char in text))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("demo", __doc__)
    add_release(parser)
    add_data(parser)
    parser.add_argument(
        "--users", type=int, default=200, metavar="N", help="(default: %(default)s)"
    )
    redis = "store (default: the embedded server, shared with `make serve`)"
    parser.add_argument("--redis", metavar="URL", help=redis)
    return parser
