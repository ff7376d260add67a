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
from pathlib import Path

from models.errors import InvalidSettings, ManifestConflict
from models.program import program
from models.release.live import LiveFolder
from models.store.embedded import resolve
from models.store.namespace import add_namespace_argument
from models.store.redis_store import RedisStore
from training.exit_codes import run_command
from training.learn.one_learner import held_alone
from training.reasoner_day.timeline import read_moment

_REDIS_TIMEOUT_MS = 5000
_TRIES = 5


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return run_command("training reason-day", lambda: _reason(options))


def _reason(options: argparse.Namespace) -> None:
    from training.reasoner_day.day_run import run_day  # imports torch and transformers: seconds

    with held_alone(options.work):
        print(json.dumps(run_day(options)), flush=True)
    if options.live is not None:
        _point_store(options)


def _point_store(options: argparse.Namespace) -> None:
    """Bring the store's pointer to the folder's version; a running learner may do it first."""

    from training.learn.store_side import StorePointer

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
