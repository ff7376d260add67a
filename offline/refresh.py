"""One night, step by step: plan, think, write; from there on it is `live`'s.

Whatever fails, what was live stays live: a generation is invisible until the manifest names it.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from transformers.utils import logging as transformers_logging

from models.errors import InvalidInput, InvalidRelease
from models.manifest import Layer
from models.reasoner import TransformersReasoner
from models.release import Release
from models.store import NightStore
from models.think import UserHistory
from offline.generation import open_generation
from offline.live import Launch, LiveSettings, go_live
from offline.plan import Plan, make_plan, to_history
from offline.progress import Stopwatch
from offline.settings import PREFIX_TTL_S, RefreshSettings
from offline.shards import (
    ShardRow,
    ShardWriter,
    is_finished,
    read_rows,
    write_failed,
    write_summary,
)
from offline.thinking import Outcome, Think, bind_think, micro_batches, think_about

logger = logging.getLogger(__name__)

LoadThink = Callable[[Release, RefreshSettings], Think]

_USERS_PER_READ = 512


@dataclass(frozen=True)
class Night:
    """What every step of a night needs. Thinking is synchronous, so that Ctrl-C reaches it; the
    store is asked through `runner`, between."""

    settings: RefreshSettings
    release: Release
    store: NightStore
    runner: asyncio.Runner
    progress: Progress
    plan: Plan
    watch: Stopwatch
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def folder(self) -> Path:
        return self.settings.out_dir / str(self.plan.generation)


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
    """Run a night and make its generation live; the summary. load: `load_think` if not given.

    Raises:
        InvalidRelease, InvalidInput: nothing was thought, or nothing that could go live.
        GatesFailed: what was thought must not go live as it is.
        StoreUnavailable: the store went away, or does not hold what was written; try again.
        ManifestConflict: another job activated meanwhile; try again.
    """
    watch = Stopwatch()
    with watch("plan"):
        release = Release.load(settings.release_dir)
        plan = runner.run(
            _plan(settings, store, fingerprint=release.space.fingerprint, now_ms=now_ms)
        )
        _check_replaced(plan, settings.out_dir)
    with watch("model"):
        think = (load or load_think)(release, settings)
    night = Night(settings, release, store, runner, progress, plan, watch)
    carried = _think_and_write(night, think)
    layer = Layer(
        generation=plan.generation,
        created_at=plan.created_at,
        users=night.outcome.refreshed + carried,
    )
    write_summary(night.folder, _summarise(night, layer, carried))
    generation = open_generation(night.folder)
    return go_live(
        Launch(generation, release, store, runner, progress, live or LiveSettings(), watch)
    )


async def _plan(
    settings: RefreshSettings, store: NightStore, *, fingerprint: int, now_ms: int
) -> Plan:
    plan = make_plan(
        settings,
        held=await store.read_manifest(),
        with_history=await store.user_ids(),
        fingerprint=fingerprint,
        now_ms=now_ms,
    )
    for user_id in plan.unknown:
        logger.warning("user %r has no history and is passed over", user_id)
    if plan.is_base and not settings.is_whole and plan.held is not None:
        logger.warning("the live layers speak another SID space; these users become a new base")
    return plan


def _check_replaced(plan: Plan, out_dir: Path) -> None:
    """Before hours of thinking: the delta whose place the new one takes can be read."""
    if plan.replaced is None:
        return
    folder = out_dir / str(plan.replaced.generation)
    if not is_finished(folder):
        raise InvalidInput(
            f"{folder}: not there, expected the delta that this night replaces: "
            "pass the --out it was made with, or refresh --users all"
        )
    for _ in read_rows(folder):
        pass


def load_think(release: Release, settings: RefreshSettings) -> Think:
    """The release's reasoner, ready for micro-batches. Raises InvalidRelease if it cannot load."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # two, beside other work, were 20 times slower than one
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        reasoner = TransformersReasoner.load(release.reasoner_dir, release.space)
    except (OSError, ValueError, KeyError, RuntimeError) as exc:
        reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
        raise InvalidRelease(f"{release.reasoner_dir}: {reason}") from exc
    return bind_think(reasoner, release.catalog, settings)


def _think_and_write(night: Night, think: Think) -> int:
    """Think about everybody due and write the shards; how many users the layer carries on.

    Raises InvalidInput when there is nothing to make live.
    """
    writer = ShardWriter(night.folder)
    refreshed: set[str] = set()
    task = night.progress.add_task("think", total=len(night.plan.user_ids))
    for users, num_read in _due_users(night):
        for batch in micro_batches(users):
            with night.watch("think"):
                found = [
                    thoughts
                    for thoughts in think_about(batch, think, night.outcome)
                    if thoughts.prefixes
                ]
            with night.watch("write"):
                for thoughts in found:
                    writer.add(ShardRow(night.plan.created_at, thoughts))
            refreshed.update(thoughts.user_id for thoughts in found)
            night.progress.advance(task, len(batch))
        night.outcome.empty += num_read - len(users)
        night.progress.advance(task, num_read - len(users))
    with night.watch("write"):
        write_failed(night.folder, night.outcome.failed)
        carried = _carry(night, writer, refreshed)
        writer.close()
    if not refreshed:
        raise InvalidInput(
            f"nothing to make live: of {len(night.plan.user_ids)} users {night.outcome.empty} came "
            f"out empty and {len(night.outcome.failed)} failed (see {night.folder})"
        )
    return carried


def _due_users(night: Night) -> Iterator[tuple[list[UserHistory], int]]:
    """Histories of the users who are due, some at a time, beside how many users were read."""
    user_ids = night.plan.user_ids
    for start in range(0, len(user_ids), _USERS_PER_READ):
        some = user_ids[start : start + _USERS_PER_READ]
        with night.watch("plan"):
            histories = night.runner.run(night.store.read_histories(some))
        users = [to_history(night.release.catalog, user_id, histories[user_id]) for user_id in some]
        yield [user for user in users if user is not None], len(some)


def _carry(night: Night, writer: ShardWriter, refreshed: set[str]) -> int:
    """The other users of the delta that this layer replaces, unless their time is up."""
    if night.plan.replaced is None:
        return 0
    carried = 0
    for row in read_rows(night.settings.out_dir / str(night.plan.replaced.generation)):
        is_live = row.created_at > night.plan.created_at - PREFIX_TTL_S
        if is_live and row.thoughts.user_id not in refreshed:
            writer.add(row)
            carried += 1
    return carried


def _summarise(night: Night, layer: Layer, carried: int) -> dict[str, Any]:
    """What a night did. epoch is null until the generation is live."""
    outcome = night.outcome
    return {
        "generation": layer.generation,
        "created_at": layer.created_at,
        "layer": "base" if night.plan.is_base else "delta",
        "epoch": None,
        "replaced": night.plan.replaced.generation if night.plan.replaced else None,
        "fingerprint": f"{night.release.space.fingerprint:016x}",
        "release": f"{night.release.name}@{night.release.version}",
        "users_due": len(night.plan.user_ids),
        "refreshed": outcome.refreshed,
        "empty": outcome.empty,
        "failed": len(outcome.failed),
        "unknown": len(night.plan.unknown),
        "carried": carried,
        "dropped_paths": outcome.dropped_paths,
        "tokens": outcome.tokens,
        "prefixes_per_user": round(outcome.prefixes / max(outcome.refreshed, 1), 2),
        "seconds": night.watch.report(),
        "shards": str(night.folder),
    }
