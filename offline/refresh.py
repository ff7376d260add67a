"""One night, stage by stage: plan, think, validate, then `go_live`.

Every stage can be run again: a night that was stopped continues where it stopped.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.progress import Progress

from models.errors import ReleaseMismatch
from models.lease import Lease
from models.release.release import Release
from models.store.contract import NightStore
from models.store.manifest import Manifest
from offline.check.validate import validate
from offline.disk.bases import load_base
from offline.disk.generation import open_generation
from offline.live.go_live import Launch, LiveSettings, go_live
from offline.plan.make_plan import Agenda, FolderHistories, make_agenda, write_agenda
from offline.plan.plan_file import Plan, newest_plan, read_plan
from offline.progress import Stopwatch, ThinkMeter
from offline.settings import NIGHT_LEASE, RefreshSettings
from offline.think.engine_choice import EngineSettings
from offline.think.engines import load_engine
from offline.think.micro_batch import Think, ThinksAhead, in_use
from offline.think.night_model import NightModel
from offline.think.think_shards import ThinkJob, pending_batches, shards_of_process, think_shards

logger = logging.getLogger(__name__)

LoadThink = Callable[[Release, RefreshSettings], Think]


def refresh(
    settings: RefreshSettings,
    *,
    store: NightStore,
    runner: asyncio.Runner,
    progress: Progress,
    now_ms: int,
    load: LoadThink | None = None,
    live: LiveSettings | None = None,
) -> dict[str, Any]:
    """Run a night, make its generation live and return the summary.

    load: loads the engine; the release's own reasoner if not given.

    Raises:
        InvalidRelease, InvalidInput: there are no thoughts, or none that can go live.
        GatesFailed: a gate rejects the generation.
        StoreUnavailable: the store went away, or lost written records; try again.
        ManifestConflict: another job changed the manifest; try again.
        LeaseTaken: another night is running in this folder.
    """
    watch = Stopwatch()
    with night_lease(settings.out_dir) as lease:
        with watch("plan"):
            plan = _resumed_plan(settings, store, runner) if settings.is_resumed else None
            release = load_base(settings.release_dir, plan.release if plan else None)
            if plan is None:
                agenda = make_night_agenda(settings, release, store, runner, now_ms=now_ms)
                plan = write_agenda(settings, agenda)
        folder = settings.out_dir / str(plan.generation)
        meter = think_night(settings, release, plan, progress=progress, watch=watch, load=load)
        with watch("validate"):
            validate(folder, plan, release.catalog, guard=lease.check)
        lease.check()
        chosen = replace(
            live or LiveSettings(),
            is_loaded=settings.is_resumed,
            price_per_hour=settings.price_per_hour,
        )
        rates = {"users_thought_now": meter.outcome.num_users}
        generation = open_generation(folder)
        launch = Launch(generation, release, store, runner, progress, chosen, watch, rates)
        return go_live(launch)


def night_lease(out_dir: Path) -> Lease:
    """Admit one night at a time to a folder. Raises LeaseTaken."""
    out_dir.mkdir(parents=True, exist_ok=True)
    return Lease.take(out_dir / NIGHT_LEASE)


def make_night_agenda(
    settings: RefreshSettings,
    release: Release,
    store: NightStore,
    runner: asyncio.Runner,
    *,
    now_ms: int,
) -> Agenda:
    """Make the agenda of this night from the histories of the store or of a data folder."""
    histories = FolderHistories(settings.data_dir) if settings.data_dir else store
    held = runner.run(store.read_manifest())
    return runner.run(make_agenda(settings, release, histories, held=held, now_ms=now_ms))


def _resumed_plan(
    settings: RefreshSettings, store: NightStore, runner: asyncio.Runner
) -> Plan | None:
    """Return the newest plan; None if its night is over or the base it builds on is not live."""
    folder = newest_plan(settings.out_dir)
    if folder is None or (folder / "summary.json").exists():
        return None
    plan, held = read_plan(folder), runner.run(store.read_manifest())
    is_live = held is not None and plan.generation in {layer.generation for layer in held.layers}
    if not is_live and _base(plan.held) != _base(held):
        logger.warning("another night overtook night %d: making a new plan", plan.generation)
        return None
    return plan


def _base(manifest: Manifest | None) -> int | None:
    return manifest.base.generation if manifest is not None else None


def think_night(
    settings: RefreshSettings,
    release: Release,
    plan: Plan,
    *,
    progress: Progress,
    watch: Stopwatch,
    load: LoadThink | None = None,
    index: int = 0,
    of: int = 1,
) -> ThinkMeter:
    """Think about the shards of process `index` (from 0) of `of`; return the counts.

    Raises ReleaseMismatch if the plan was made with another release.
    """
    if plan.release != f"{release.name}@{release.version}":
        raise ReleaseMismatch(
            f"{settings.release_dir}: {release.name}@{release.version}, expected {plan.release}, "
            "the release of this night's plan"
        )
    folder = settings.out_dir / str(plan.generation)
    shards = shards_of_process(plan, index=index, of=of)
    num_users = sum(plan.shards[at].users for at in shards if not plan.shards[at].sources)
    meter = ThinkMeter(progress, num_users, price_per_hour=settings.price_per_hour)
    planned = replace(settings, paths=plan.paths, width=plan.width, seed=plan.seed)
    with ExitStack() as closing:

        @cache
        def think() -> Think:
            with watch("model"):
                loaded = closing.enter_context(in_use((load or load_think)(release, planned)))
            if isinstance(loaded, ThinksAhead):
                loaded.expect(pending_batches(folder, plan, shards))
            return loaded

        night = NightModel(settings.out_dir, num_prefixes=plan.num_prefixes).of(release)
        job = ThinkJob(folder, plan, think, watch, meter.report, night)
        think_shards(job, shards)
    return meter


def load_think(
    release: Release, settings: RefreshSettings, engine: EngineSettings | None = None
) -> Think:
    """Load the engine, by default the release's own reasoner. Imports take seconds."""
    return load_engine(release, settings, engine or EngineSettings())
