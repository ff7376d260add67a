"""One run of the reasoner's day: read the events, learn them, and publish what passed the gates."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from models.catalog.dataset import load_dataset
from models.errors import GatesFailed, InvalidInput, InvalidSettings
from models.log.event_log import EventLog
from models.log.tombstones import Tombstones
from models.reasoner.think import reads_evidence
from models.release.live import LiveFolder, resolve_release
from models.release.release import Release
from models.store.contract import Logged
from training.event_types import types_of
from training.learn.guard import is_poisoned
from training.reasoner_day.day_settings import DaySettings, load_day_settings
from training.reasoner_day.day_work import DayWork
from training.reasoner_day.reasoner_learner import (
    DAY_TABLE,
    ReasonerDay,
    inputs_of,
    reasoner_files,
)
from training.reasoner_day.reasoner_release import publish_base, publish_release
from training.reasoner_day.timeline import Timeline, guard_new_events, merged_events


def run_day(options: argparse.Namespace) -> dict[str, Any]:
    """Learn the events behind the watermark, and publish; return the facts of it."""
    torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    release = Release.load(options.release or resolve_release(options.live))
    if reads_evidence(release.manifest.recipe):
        raise InvalidSettings(
            f"{release.directory}: its reasoner reads evidence, which a reasoner's day does not "
            "write, expected [thoughts] evidence = 0 in its recipe"
        )
    settings = load_day_settings(options.settings, seed=options.seed, types=types_of(release))
    since = _since(options, release)
    work = DayWork(options.work)
    begun = {"since": since, "until": options.until, "reasoner": reasoner_files(release)}
    in_work = work.until(begun)
    if in_work is None and options.out is not None and options.out.exists():
        raise InvalidInput(f"{options.out}: exists already, expected a new folder")
    until = in_work or options.until
    timeline, held, num_new = _read_events(options, settings, release, since, until)
    moments = timeline.moments(after=since)
    if len(moments) < settings.gates.least_events:
        return {"since": since, "events": len(moments), "outcome": "nothing"}
    until = moments[-1]
    work.begin(begun, until, inputs_of(release, timeline, settings, since=since, until=until))
    day = ReasonerDay(release, timeline, work, settings, since=since, until=until)
    facts: dict[str, Any] = {"since": since, "until": until, "parent": release.version}
    try:
        facts |= {"seen": num_new, **({"held": held} if held else {}), **day.run()}
    except GatesFailed:
        work.end()  # the next run takes the events since then too
        raise
    published = _publish(options, release, day, facts)
    work.end()
    return {**facts, "outcome": "accepted", "published": published}


def _since(options: argparse.Namespace, release: Release) -> str:
    """Return the watermark: the option, or the entry up to which the reasoner has learnt."""
    known = release.manifest.recipe.get(DAY_TABLE, {}).get("until")
    if not (options.since or known):
        raise InvalidSettings(
            f"{release.directory}: does not say what its reasoner has learnt, expected --since "
            "with an entry of the log or a day"
        )
    return str(options.since or known)


def _read_events(
    options: argparse.Namespace,
    settings: DaySettings,
    release: Release,
    since: str,
    until: str | None,
) -> tuple[Timeline, str, int]:
    """Read data and log up to `until`; return the events, a line of held ones, and new events.

    Raises InvalidInput for data without times and no log, or GatesFailed if the guard held back
    more than its share of the new events.
    """
    dataset = load_dataset(options.data)
    if not dataset.has_times and options.log is None:
        raise InvalidInput(
            f"{options.data}: interactions.parquet has no column timestamp, expected one, or --log"
        )
    tombstones = [Tombstones.load(folder) for folder in options.erased]
    events = merged_events(
        dataset,
        _read_log(options.log),
        until=until,
        types=settings.types,
        is_erased=lambda user_id, moment: any(each.hides(user_id, moment) for each in tombstones),
    )
    found = guard_new_events(events, after=since, settings=settings.guard)
    if is_poisoned(found.held, found.num_new, settings.guard):
        raise GatesFailed(
            f"{found.held.num_events:,} of {found.num_new:,} new events were held back, expected "
            f"at most {settings.guard.held_share:.0%}: {found.held.describe()}"
        )
    return Timeline(found.events, release.catalog), found.held.describe(), found.num_new


def _read_log(folder: Path | None) -> Iterator[Logged]:
    """Yield the events of a learner's log. Raises InvalidInput if there is no folder."""
    if folder is None:
        return
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such folder, expected the log of a learner, WORK/log")
    yield from EventLog(folder).read()


def _publish(
    options: argparse.Namespace, release: Release, day: ReasonerDay, facts: dict[str, Any]
) -> str:
    """Publish the reasoner that passed its gates; return the name of the version."""
    if options.live is None:
        made = publish_release(options.out, release, day.reasoner_dir, facts)
        return f"{made.name}@{made.version}"
    version = publish_base(
        LiveFolder(options.live),
        release,
        day.reasoner_dir,
        facts,
        options.work / "reasoner_day" / "base",
        keep_bases=options.keep_bases,
        now_ms=int(1000 * time.time()),
    )
    return f"{version.base}+{version.deltas}"
