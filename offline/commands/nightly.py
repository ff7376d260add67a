"""The commands of a night.

`plan`, `think` and `validate` run one stage each, `refresh` a whole night. `retry-dead` runs a
night for the dead letters of the last one.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from models.errors import InvalidInput
from models.program import program
from models.store.namespace import add_namespace_argument
from offline.check.report import render_table
from offline.check.validate import validate
from offline.commands.live_commands import add_gate_arguments, live_settings
from offline.commands.options import (
    Parser,
    add_dry_run_argument,
    add_folder_arguments,
    add_generation_argument,
    add_price_argument,
    add_sampling_arguments,
    add_store_arguments,
    add_user_arguments,
    number,
    open_store,
    to_settings,
)
from offline.disk.bases import load_base
from offline.disk.shards import is_finished, read_failed
from offline.plan.make_plan import write_agenda
from offline.plan.plan_file import Plan, newest_plan, read_plan
from offline.progress import Stopwatch, make_progress
from offline.refresh import (
    LoadThink,
    load_think,
    make_night_agenda,
    night_lease,
    refresh,
    think_night,
)
from offline.settings import RefreshSettings
from offline.think.engine_choice import add_engine_arguments, engine_settings
from offline.think.estimate import estimate

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[Parser]

RESUMABLE = frozenset({"refresh", "retry-dead"})  # commands with --resume

_MAX_PROCESSES = 1 << 20


def add_commands(commands: "_Commands") -> None:
    planning = commands.add_parser("plan", help="choose the users that are due, write the plan")
    planning.set_defaults(run=_plan)
    thinking = commands.add_parser("think", help="think about the users of a plan")
    thinking.add_argument("--index", type=number(0, _MAX_PROCESSES), default=0, metavar="I")
    thinking.add_argument(
        "--of",
        type=number(1, _MAX_PROCESSES),
        default=1,
        metavar="N",
        help="number of processes that share the plan; I counts from 0",
    )
    thinking.set_defaults(run=_think)
    validating = commands.add_parser("validate", help="check the shards, finish the generation")
    validating.set_defaults(run=_validate)
    refreshing = commands.add_parser("refresh", help="run a whole night and make it live")
    refreshing.set_defaults(run=_refresh)
    retrying = commands.add_parser("retry-dead", help="run a night for the dead letters")
    retrying.set_defaults(run=_retry_dead)
    for command in (planning, thinking, validating, refreshing, retrying):
        add_folder_arguments(command)
    for command in (planning, refreshing):
        add_user_arguments(command)
        add_dry_run_argument(command)
    for command in (planning, refreshing, retrying):
        add_sampling_arguments(command)
        add_store_arguments(command)
    for command in (refreshing, retrying):
        command.add_argument(
            "--resume", action="store_true", help="continue the newest unfinished night"
        )
    for command in (planning, thinking, refreshing, retrying):
        add_price_argument(command)
        add_engine_arguments(command)
    for command in (refreshing, retrying):
        add_gate_arguments(command)
    for command in (thinking, validating):
        add_generation_argument(command)
        add_namespace_argument(command)


def _plan(options: argparse.Namespace, console: Console) -> None:
    settings = to_settings(options)
    if options.dry_run:
        _dry_run(settings, options, console)
        return
    release = load_base(settings.release_dir)
    with night_lease(settings.out_dir), open_store(options) as (store, runner):
        agenda = make_night_agenda(settings, release, store, runner, now_ms=_now_ms())
        plan = write_agenda(settings, agenda)
    print(json.dumps(_describe(plan, settings.out_dir)))


def _describe(plan: Plan, out_dir: Path) -> dict[str, Any]:
    return {
        "run": plan.run_id,
        "generation": plan.generation,
        "users_chosen": plan.users_chosen,
        "users_to_think_about": plan.num_thought,
        "users_to_carry": plan.num_carried,
        "shards": len(plan.shards),
        "plan": str(out_dir / str(plan.generation) / "plan.json"),
    }


def _dry_run(settings: RefreshSettings, options: argparse.Namespace, console: Console) -> None:
    release = load_base(settings.release_dir)
    with open_store(options) as (store, runner):
        agenda = make_night_agenda(settings, release, store, runner, now_ms=_now_ms())
    with console.status("thinking about a sample"):
        found = estimate(settings, agenda, lambda: _engine(options)(release, settings))
    for name, value in found.items():
        console.print(f"{name.replace('_', ' '):>22}  {_readable(value)}", highlight=False)
    print(json.dumps(found))


def _readable(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


def _think(options: argparse.Namespace, console: Console) -> None:
    if options.index >= options.of:
        raise InvalidInput(f"--index {options.index}, expected 0..{options.of - 1}")
    settings, watch = to_settings(options), Stopwatch()
    folder = _plan_folder(settings, options.generation)
    plan = read_plan(folder)
    release = load_base(settings.release_dir, plan.release)
    with make_progress(console) as progress:
        meter = think_night(
            settings,
            release,
            plan,
            progress=progress,
            watch=watch,
            index=options.index,
            of=options.of,
            load=_engine(options),
        )
    rates = meter.rates(watch.seconds.get("think", 0.0))
    print(json.dumps({"run": plan.run_id, "generation": plan.generation, **rates}))


def _validate(options: argparse.Namespace, _console: Console) -> None:
    settings = to_settings(options)
    folder = _plan_folder(settings, options.generation)
    plan = read_plan(folder)
    catalog = load_base(settings.release_dir, plan.release).catalog
    with night_lease(settings.out_dir) as lease:
        success = validate(folder, plan, catalog, guard=lease.check)
    print(json.dumps({name: value for name, value in success.items() if name != "parts"}))


def _refresh(options: argparse.Namespace, console: Console) -> None:
    settings = to_settings(options)
    if options.dry_run:
        _dry_run(settings, options, console)
        return
    _run_night(settings, options, console)


def _retry_dead(options: argparse.Namespace, console: Console) -> None:
    settings = to_settings(options)
    dead = _dead_letters(settings.out_dir)
    if not dead and not settings.is_resumed:
        print(json.dumps({"users_due": 0}))
        return
    settings = replace(settings, is_whole=False, user_ids=tuple(dead))
    _run_night(settings, options, console)


def _dead_letters(out_dir: Path) -> list[str]:
    """Read the dead letters of the newest finished night."""
    folders = [file.parent for file in out_dir.glob("*/plan.json") if is_finished(file.parent)]
    newest = max(folders, key=lambda folder: int(folder.name), default=None)
    return read_failed(newest) if newest is not None else []


def _run_night(settings: RefreshSettings, options: argparse.Namespace, console: Console) -> None:
    live = live_settings(options)
    with open_store(options) as (store, runner), make_progress(console) as progress:
        summary = refresh(
            settings,
            store=store,
            runner=runner,
            progress=progress,
            now_ms=_now_ms(),
            load=_engine(options),
            live=live,
        )
    console.print(render_table(summary), markup=False, highlight=False, soft_wrap=True)
    print(json.dumps(summary))


def _engine(options: argparse.Namespace) -> LoadThink:
    return partial(load_think, engine=engine_settings(options))


def _plan_folder(settings: RefreshSettings, generation: int | None) -> Path:
    folder = settings.out_dir / str(generation) if generation else newest_plan(settings.out_dir)
    if folder is None:
        raise InvalidInput(f"{settings.out_dir}: no plan; run `{program('offline')} plan` first")
    return folder


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
