"""`python -m training learn`: learns from the event log while the service serves.

    --follow            until a signal: every tick counts, every slice weights
    --once              everything that the log has by now; exit 65 if a gate failed
    --replay DATA       the events of a data folder behind --from-day, one slice a day

One JSON line for each slice goes to standard output.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import signal
import time
from pathlib import Path
from typing import Any

import torch

from models.catalog.dataset import load_dataset
from models.durable import make_private
from models.errors import (
    GatesFailed,
    InvalidRelease,
    ManifestConflict,
    StoreUnavailable,
    one_line,
)
from models.intake.data_folder import data_digest
from models.program import program
from models.release.live import LiveFolder
from models.release.release import Release
from models.store.embedded import resolve
from models.store.namespace import add_namespace_argument
from models.store.redis_store import RedisStore
from training.event_types import types_of
from training.exit_codes import run_command
from training.item_text import embed_texts
from training.learn.catalog_growth import CatalogGrowth
from training.learn.day_learner import DayLearner
from training.learn.feed import FeedBatches
from training.learn.follower import Follower, FollowSettings
from training.learn.histories import Histories
from training.learn.item_growth import Embed, catalog_vectors
from training.learn.learn_settings import LearnSettings, load_settings
from training.learn.new_items import ItemGrower
from training.learn.one_learner import held_alone
from training.learn.online_learner import OnlineLearner
from training.learn.publisher import Publisher
from training.learn.replay_days import SplitByDay
from training.learn.saved_state import SavedStates
from training.learn.store_side import ErasedUsers, StorePointer, read_events

logger = logging.getLogger(__name__)

_REDIS_TIMEOUT_MS = 5000


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    return run_command("training learn", lambda: _learn(options))


def _learn(options: argparse.Namespace) -> None:
    with held_alone(options.live) as lease:
        publisher = Publisher(
            LiveFolder(options.live), keep_bases=options.keep_bases, guard=lease.check
        )
        if options.replay is not None:
            _replay(options, publisher)
        else:
            with resolve(options.redis, None) as server:
                asyncio.run(_follow(options, publisher, server.url))


def _print(line: dict[str, Any]) -> None:
    print(
        json.dumps({name: value for name, value in line.items() if value not in (None, "")}),
        flush=True,
    )


def _replay(options: argparse.Namespace, publisher: Publisher) -> None:
    dataset = load_dataset(options.replay)
    split = SplitByDay.of(dataset, options.from_day)
    release = Release.load(options.release)
    make_private(options.work)
    DayLearner(
        release,
        dataset,
        split,
        load_settings(options.settings, seed=options.seed, types=types_of(release)),
        make_grower(release, options.work),
        publisher,
        options.work,
    ).run(_print)


async def _follow(options: argparse.Namespace, publisher: Publisher, redis_url: str) -> None:
    follower, feed, erased = make_follower(options, publisher)
    store = RedisStore(redis_url, _REDIS_TIMEOUT_MS, namespace=options.namespace)
    pointer = StorePointer(publisher.folder)
    follower.start()
    try:
        if options.once:
            await _learn_once(follower, feed, erased, store, pointer)
        else:
            await _learn_on(follower, feed, erased, store, pointer, options)
    finally:
        await store.close()


async def _learn_once(
    follower: Follower,
    feed: FeedBatches,
    erased: ErasedUsers,
    store: RedisStore,
    pointer: StorePointer,
) -> None:
    await erased.look(store, follower)
    await read_events(follower, store)
    await feed.look(store)
    follower.settle(None)
    while follower.wait_out():
        pass
    follower.publish()
    follower.save()
    await pointer.follow(store)
    if follower.refusals:
        raise GatesFailed(
            f"weights of {len(follower.refusals)} slices not published: {follower.refusals[-1]}"
        )


async def _learn_on(
    follower: Follower,
    feed: FeedBatches,
    erased: ErasedUsers,
    store: RedisStore,
    pointer: StorePointer,
    options: argparse.Namespace,
) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    last_failure, quiet_since = "", time.monotonic()
    while not stopped.is_set():
        started = time.monotonic()
        try:
            await erased.look(store, follower)
            num_events = await read_events(follower, store)
            await feed.look(store)
            follower.settle(int(1000 * time.time()))
            if num_events:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > options.slice_s:
                quiet_since = time.monotonic()
                follower.wait_out()
            follower.publish()
            await pointer.follow(store)
            last_failure = ""
        except (StoreUnavailable, ManifestConflict, OSError) as exc:
            if (line := one_line(exc)) != last_failure:
                logger.error("waiting: %s", line)
            last_failure = line
        rest = options.tick_s - (time.monotonic() - started)
        try:
            await asyncio.wait_for(stopped.wait(), max(rest, 0.01))
        except TimeoutError:
            continue
    follower.save()


def make_follower(
    options: argparse.Namespace, publisher: Publisher
) -> tuple[Follower, FeedBatches, ErasedUsers]:
    release = Release.load(options.release)
    settings = load_settings(options.settings, seed=options.seed, types=types_of(release))
    work: Path = options.work
    make_private(work)
    erased = ErasedUsers(work, options.erased)
    histories = Histories(
        load_dataset(options.data), is_erased=erased.hides_at, types=settings.types
    )
    slice_ms = round(1000 * options.slice_s)
    feed = FeedBatches(work / "items", options.items)
    follower = Follower(
        OnlineLearner.begin(release, histories, settings, slice_ms=slice_ms),
        release,
        publisher,
        work,
        SavedStates(work / "states", of=_inputs(release, options.data, settings)),
        CatalogGrowth(feed, lambda: make_grower(release, work), every_s=options.items_every_s),
        FollowSettings(
            slice_ms=slice_ms,
            states_every=options.states_every,
            most_deltas=options.most_deltas,
        ),
        is_erased=erased.hides,
        report=_print,
    )
    return follower, feed, erased


def make_grower(release: Release, work: Path, embed: Embed = embed_texts) -> ItemGrower:
    """Make the grower of a release.

    embed: of texts; the sentence model of training by default. Raises InvalidRelease for a release
    without codebooks.
    """
    codebooks = release.load_codebooks()
    if codebooks is None:
        raise InvalidRelease(
            f"{release.directory}: no codebooks, expected those of format 5; "
            "`python -m training renew --keep-weights` writes them"
        )
    vectors = catalog_vectors(release.catalog, embed, work / "text_vectors.safetensors")
    text_weight = float(release.manifest.recipe.get("quantize", {}).get("text_weight", 1.0))
    return ItemGrower(codebooks, vectors, text_weight=text_weight)


def _inputs(release: Release, data: Path, settings: LearnSettings) -> str:
    text = f"{release.version} {data_digest(data)} {settings.digest}"
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{program('training')} learn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--follow", action="store_true", help="learn until a signal")
    mode.add_argument("--once", action="store_true", help="learn what the log has by now")
    mode.add_argument("--replay", type=Path, metavar="DATA", help="learn a data folder by days")
    add = parser.add_argument
    add("--release", type=Path, required=True, help="base: the release to go on from")
    add("--live", type=Path, required=True, help="live folder that services follow")
    add("--work", type=Path, required=True, help="log, slices, items and states of this learner")
    add("--data", type=Path, help="data folder that the release was trained on")
    add(
        "--from-day", type=int, metavar="D", help="with --replay: last day, since 1970, of the base"
    )
    add("--redis", metavar="URL", help="default: THINKAHEAD_REDIS_URL, or the embedded server")
    add_namespace_argument(parser)
    add("--items", type=Path, metavar="DIR", help="folder of new items, *.jsonl and *.parquet")
    add("--erased", type=Path, metavar="DIR", help="folder of the night, with its erased.jsonl")
    add("--settings", type=Path, metavar="FILE", help="TOML of guard, rates, steps, gates, types")
    add("--slice-s", type=float, default=10.0, help="length of a slice (default: %(default)s)")
    add("--tick-s", type=float, default=1.0, help="between two looks (default: %(default)s)")
    add("--states-every", type=int, default=6, metavar="N", help="slices (default: %(default)s)")
    add("--items-every-s", type=float, default=10.0, help="new items wait (default: %(default)s)")
    add("--most-deltas", type=int, default=1000, metavar="N", help="a base (default: %(default)s)")
    add("--keep-bases", type=int, default=5, metavar="N", help="(default: %(default)s)")
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if (options.replay is None) != (options.from_day is None):
        parser.error("--replay and --from-day come together")
    if options.replay is None and options.data is None:
        parser.error("--follow and --once need --data")
    counts = (options.slice_s, options.tick_s, options.states_every, options.most_deltas)
    if min(counts) <= 0:
        parser.error("--slice-s, --tick-s, --states-every and --most-deltas, expected above 0")
    return options
