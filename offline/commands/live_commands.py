"""The commands for live generations, from `load` to `status`.

Each is a thin layer over a module of `live`, mostly of the same name.
"""

import argparse
import asyncio
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from models.store.contract import NightStore
from offline.check.gates import read_limits
from offline.commands.options import (
    add_attributes_argument,
    add_prefixes_argument,
    add_store_arguments,
    default_out,
)
from offline.disk.archive import drain
from offline.disk.bases import load_base
from offline.disk.generation import find_generation
from offline.live.activate import check_percent, rollback
from offline.live.compact import compact
from offline.live.erasure import erase
from offline.live.gc import KEEP, collect
from offline.live.go_live import Launch, LiveSettings, go_live
from offline.live.load import load, verify
from offline.live.repair import repair
from offline.live.status import read_status, render_status
from offline.plan.attributes import read_attributes
from offline.progress import Stopwatch, make_progress
from offline.settings import DEFAULT_PATHS, DEFAULT_WIDTH, RefreshSettings
from offline.think.engine_choice import add_engine_arguments, engine_settings
from offline.think.engines import Thinkers
from offline.think.micro_batch import in_use

Opened = AbstractContextManager[tuple[NightStore, asyncio.Runner]]
OpenStore = Callable[[argparse.Namespace], Opened]
Command = Callable[[argparse.Namespace, Console, OpenStore], None]

HELP = {
    "load": "write a generation's records into the store, without making it live",
    "verify": "check that a loaded generation is complete in the store",
    "activate": "run the gates, load, verify, then make a generation live, or live for a canary",
    "rollback": "return to the generations that were live before, or end a canary",
    "gc": "remove old generations from store and disk",
    "archive": "append the event streams to the archive on disk",
    "repair": "restore the store from shards and archive",
    "erase": "remove all data of a user, for good",
    "compact": "merge base and deltas into a new base, and make it live",
    "worker": "think about users on demand, until stopped",
    "status": "show the live generations and those kept on disk",
}
_NEED_RELEASE = ("load", "verify", "activate", "compact", "worker")


def add_live_commands(commands: Any, open_store: OpenStore) -> None:
    """Add a subparser for every command of HELP; it sets `run(options, console)`."""
    for name, purpose in HELP.items():
        parser = commands.add_parser(name, help=purpose)
        parser.set_defaults(run=partial(_run, COMMANDS[name], open_store))
        add_store_arguments(parser)
        parser.add_argument("--out", type=Path, metavar="DIR", help="default: state folder")
        if name in _NEED_RELEASE:
            parser.add_argument("--release", type=Path, required=True, metavar="DIR")
        if name in ("load", "verify", "activate"):
            parser.add_argument("--generation", type=int, metavar="G", help="default: the newest")
        if name in ("activate", "compact"):
            add_gate_arguments(parser)
    _add_own_arguments(commands.choices)


def _run(
    command: Command, open_store: OpenStore, options: argparse.Namespace, console: Console
) -> None:
    command(options, console, open_store)


def add_gate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `go_live`, which `refresh` takes too."""
    add = parser.add_argument
    add("--force", metavar="REASON", help="overrule failed gates; the report keeps the reason")
    add("--gate", action="append", default=[], metavar="NAME=X", help="change the limit of a gate")
    add("--canary", type=float, metavar="PERCENT", help="go live for this share of users only")
    add("--keep", type=int, default=KEEP, metavar="N", help="nights to keep for a rollback")
    add("--textfile", type=Path, metavar="FILE", help="write metrics here, for node exporter")


def _add_own_arguments(choices: dict[str, argparse.ArgumentParser]) -> None:
    choices["rollback"].add_argument("--to", type=int, metavar="EPOCH")
    choices["gc"].add_argument("--keep", type=int, default=KEEP, metavar="N")
    choices["erase"].add_argument("user", metavar="USER")
    choices["status"].add_argument("--json", action="store_true", help="for scripts")
    worker = choices["worker"]
    worker.add_argument("--paths", type=int, default=DEFAULT_PATHS, metavar="T")
    worker.add_argument("--width", type=int, default=DEFAULT_WIDTH, metavar="M")
    add_prefixes_argument(worker)
    add_engine_arguments(worker)
    add_attributes_argument(worker)
    worker.add_argument(
        "--idle-ms",
        type=int,
        default=60_000,
        help="claim a request that another worker has held for this long",
    )
    worker.add_argument("--once", action="store_true", help="serve one micro-batch, then end")


def live_settings(options: argparse.Namespace) -> LiveSettings:
    """Read the options of `add_gate_arguments`. Raises InvalidSettings or InvalidInput."""
    return LiveSettings(
        limits=read_limits(options.gate),
        force=options.force,
        canary_percent=None if options.canary is None else check_percent(options.canary),
        keep=options.keep,
        textfile=options.textfile,
    )


def out_folder(options: argparse.Namespace) -> Path:
    given: Path | None = options.out
    return given or default_out(options.namespace)


def _load(options: argparse.Namespace, console: Console, open_store: OpenStore) -> None:
    space = load_base(options.release).space
    generation = find_generation(out_folder(options), options.generation)
    with open_store(options) as (store, runner), make_progress(console) as progress:
        loaded = runner.run(
            load(generation, store, fingerprint=space.fingerprint, progress=progress)
        )
    _print(
        generation=generation.number,
        loaded=len(loaded.user_ids),
        retries=loaded.num_retries,
        seconds=round(loaded.seconds, 3),
    )


def _verify(options: argparse.Namespace, _console: Console, open_store: OpenStore) -> None:
    space = load_base(options.release).space
    generation = find_generation(out_folder(options), options.generation)
    with open_store(options) as (store, runner):
        num_found = runner.run(verify(generation, store, space=space))
    _print(generation=generation.number, verified=num_found)


def _activate(options: argparse.Namespace, console: Console, open_store: OpenStore) -> None:
    release = load_base(options.release)
    generation = find_generation(out_folder(options), options.generation)
    settings = replace(live_settings(options), is_loaded=True)
    with open_store(options) as (store, runner), make_progress(console) as progress:
        launch = Launch(generation, release, store, runner, progress, settings, Stopwatch())
        summary = go_live(launch)
    print(json.dumps(summary))


def _compact(options: argparse.Namespace, console: Console, open_store: OpenStore) -> None:
    release, settings = load_base(options.release), live_settings(options)
    now_ms = time.time_ns() // 1_000_000
    with open_store(options) as (store, runner), make_progress(console) as progress:
        held = runner.run(store.read_manifest())
        generation = compact(out_folder(options), held, now_ms=now_ms)
        launch = Launch(generation, release, store, runner, progress, settings, Stopwatch())
        summary = go_live(launch)
    print(json.dumps(summary))


def _rollback(options: argparse.Namespace, _console: Console, open_store: OpenStore) -> None:
    with open_store(options) as (store, runner):
        manifest = runner.run(rollback(store, out_folder(options), to_epoch=options.to))
    _print(epoch=manifest.epoch, live=[layer.generation for layer in manifest.layers])


def _gc(options: argparse.Namespace, _console: Console, open_store: OpenStore) -> None:
    with open_store(options) as (store, runner):
        _print(**runner.run(collect(store, out_folder(options), keep=options.keep)))


def _archive(options: argparse.Namespace, _console: Console, open_store: OpenStore) -> None:
    with open_store(options) as (store, runner):
        _print(**runner.run(drain(store, out_folder(options)))._asdict())


def _repair(options: argparse.Namespace, console: Console, open_store: OpenStore) -> None:
    with open_store(options) as (store, runner), make_progress(console) as progress:
        _print(**runner.run(repair(store, out_folder(options), progress=progress)))


def _erase(options: argparse.Namespace, _console: Console, open_store: OpenStore) -> None:
    now_ms = time.time_ns() // 1_000_000
    with open_store(options) as (store, runner):
        _print(**runner.run(erase(options.user, store, out_folder(options), now_ms=now_ms)))


def _status(options: argparse.Namespace, _console: Console, open_store: OpenStore) -> None:
    with open_store(options) as (store, runner):
        status = runner.run(read_status(store, now_s=int(time.time()), out_dir=out_folder(options)))
    print(json.dumps(status) if options.json else render_status(status))


def _worker(options: argparse.Namespace, console: Console, open_store: OpenStore) -> None:
    with console.status("starting"):  # importing torch and transformers takes seconds
        from offline.live.base_follower import BaseFollower
        from offline.live.worker import Worker
        from offline.think.night_model import NightModel

    release, out_dir = load_base(options.release), out_folder(options)
    settings = RefreshSettings(
        options.release,
        out_dir,
        paths=options.paths,
        width=options.width,
        attributes_dir=options.attributes,
    )
    thinkers = Thinkers(settings, engine_settings(options))
    with (
        in_use(thinkers.load(release)) as think,
        open_store(options) as (store, runner),
        _stopped_by_sigterm() as is_stopped,
    ):
        night = NightModel(out_dir, num_prefixes=options.prefixes)
        attributes = read_attributes(settings, release)
        worker = Worker(
            *(store, release, out_dir, think, runner, night, attributes), idle_ms=options.idle_ms
        )
        logging.getLogger(__name__).warning("waiting for requests")
        look = BaseFollower(options.release, thinkers.load).look
        served = worker.serve_once() if options.once else worker.run(is_stopped, look)
    _print(**served._asdict())


@contextmanager
def _stopped_by_sigterm() -> Iterator[Callable[[], bool]]:
    """Catch SIGTERM, so that a worker settles its batch first; yield a function to ask for it."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield stopped.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(**facts: Any) -> None:
    print(json.dumps(facts))


COMMANDS: dict[str, Command] = {
    "load": _load,
    "verify": _verify,
    "activate": _activate,
    "rollback": _rollback,
    "gc": _gc,
    "archive": _archive,
    "repair": _repair,
    "erase": _erase,
    "compact": _compact,
    "worker": _worker,
    "status": _status,
}
