"""`python -m training reason-day`: the reasoner learns the events since a watermark.

The newest events are tested before they are learnt, by the reasoner before and by the one that has
learnt the others. If a gate fails, nothing is published, and the exit code is 65. A killed run goes
on when it is started again.

    --release R --out NEW   a whole release, with the online part and the SIDs of R
    --live DIR              a base in a live folder, beside a learner that may go on

One JSON line goes to standard output.
"""

import argparse
import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from models.catalog.dataset import load_dataset
from models.errors import (
    GatesFailed,
    InvalidInput,
    InvalidSettings,
    ManifestConflict,
)
from models.log.event_log import EventLog
from models.log.tombstones import Tombstones
from models.program import program
from models.release.live import LiveFolder, resolve_release
from models.release.release import Release
from models.store.contract import Logged
from models.store.embedded import resolve
from models.store.namespace import add_namespace_argument
from models.store.redis_store import RedisStore
from training.event_types import types_of
from training.exit_codes import run_command
from training.learn.guard import is_poisoned
from training.learn.one_learner import held_alone
from training.learn.store_side import StorePointer
from training.reasoner_day.day_settings import DaySettings, load_day_settings
from training.reasoner_day.day_work import DayWork
from training.reasoner_day.reasoner_learner import (
    DAY_TABLE,
    ReasonerDay,
    inputs_of,
    reasoner_files,
)
from training.reasoner_day.reasoner_release import publish_base, publish_release
from training.reasoner_day.timeline import (
    Timeline,
    guard_new_events,
    merged_events,
    read_moment,
)

_REDIS_TIMEOUT_MS = 5000
_TRIES = 5


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    return run_command("training reason-day", lambda: _reason(options))


def _reason(options: argparse.Namespace) -> None:
    with held_alone(options.work):
        print(json.dumps(run_day(options)), flush=True)
    if options.live is not None:
        _point_store(options)


def run_day(options: argparse.Namespace) -> dict[str, Any]:
    """Learn the events behind the watermark, and publish; return the facts of it."""
    release = Release.load(options.release or resolve_release(options.live))
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


def _point_store(options: argparse.Namespace) -> None:
    """Bring the store's pointer to the folder's version; a running learner may do it first."""

    async def follow(url: str) -> None:
        store = RedisStore(url, _REDIS_TIMEOUT_MS, namespace=options.namespace)
        try:
            for rest in reversed(range(_TRIES)):
                try:
                    await StorePointer(LiveFolder(options.live)).follow(store)
                    break
                except ManifestConflict:
                    if not rest:
                        raise
        finally:
            await store.close()

    with resolve(options.redis, None) as server:
        asyncio.run(follow(server.url))


def _moment(text: str) -> str:
    try:
        return read_moment(text)
    except InvalidSettings as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{program('training')} reason-day",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--release", type=Path, metavar="R", help="release to go on from")
    add("--out", type=Path, metavar="NEW", help="release to write")
    add("--live", type=Path, metavar="DIR", help="live folder to go on from and to publish into")
    add("--data", type=Path, required=True, help="data folder, as of `offline export`")
    add("--log", type=Path, metavar="DIR", help="log of a learner, WORK/log")
    add(
        "--since",
        type=_moment,
        metavar="ENTRY|DAY",
        help="watermark: last learnt entry of the log, ms-n, or first new UTC day, YYYY-MM-DD "
        "(default: what the manifest says)",
    )
    add("--until", type=_moment, metavar="ENTRY|DAY", help="last entry, or first day left out")
    add("--work", type=Path, required=True, help="checkpoints")
    add(
        "--settings", type=Path, metavar="FILE", help="TOML of steps, gates, reasoner, guard, types"
    )
    add(
        "--erased",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="folders with an erased.jsonl: work folder of the learner, folder of the night",
    )
    add("--redis", metavar="URL", help="with --live (default: THINKAHEAD_REDIS_URL, or embedded)")
    add_namespace_argument(parser)
    add("--keep-bases", type=int, default=5, metavar="N", help="with --live (default: %(default)s)")
    add("--threads", type=int, default=1)
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if (options.live is None) == (options.release is None):
        parser.error("expected --release with --out, or --live")
    if (options.out is None) != (options.release is None):
        parser.error("--release and --out come together")
    return options
