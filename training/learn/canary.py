"""`python -m training canary --live DIR ...`: another version for a share of the users.

    --base BASE+N --percent P   a version in the live folder, as answers name it
    --release DIR --percent P   a release that is not in the folder yet, as a refit
    --compare URL...            its recall of the users' next events beside that of the others
    --end promote|drop          for all users, or for none

A learner goes on publishing beside a canary, and stops behind a promotion as behind a rollback.
"""

import argparse
from contextlib import suppress
from pathlib import Path

from models.errors import InvalidInput, ReleaseMismatch
from models.program import program
from models.release.live import LiveFolder, load_live
from models.release.release import Release
from models.store.model_pointer import LiveVersion, ModelCanary, ModelPointer
from models.store.namespace import add_namespace_argument
from training.exit_codes import run_command
from training.learn.both_pointers import Change, move_both, now_ms
from training.learn.live_comparison import compare
from training.learn.roll_back import read_version, roll_back


def main(arguments: list[str]) -> int:
    options = _parse(arguments)

    def run() -> None:
        if options.compare is not None:
            _canary_of(LiveFolder(options.live))
            print(compare(options.compare))
            return
        pointer = move_both(options, _change(options))
        share = pointer.canary
        beside = f", {share.base}+{share.deltas} for {share.percent:g}% of users" if share else ""
        print(f"{pointer.base}+{pointer.deltas} serves{beside}, epoch {pointer.epoch}")

    return run_command("training canary", run)


def _change(options: argparse.Namespace) -> Change:
    folder = LiveFolder(options.live)
    held = _served(folder, folder.pointer())
    if options.end == "drop":
        return lambda now, epoch: _with_canary(_served(folder, now), epoch, None)
    if options.end == "promote":
        canary = _canary_of(folder)
        return roll_back(folder, canary.base, canary.deltas)
    if options.release is not None:
        target = LiveVersion(folder.publish_base(options.release).version, 0, "")
    else:
        target = folder.version(*read_version(options.base))
    _check(folder, target, held)
    canary = ModelCanary(**target._asdict(), percent=options.percent)
    return lambda now, epoch: _with_canary(_served(folder, now), epoch, canary)


def _canary_of(folder: LiveFolder) -> ModelCanary:
    canary = _served(folder, folder.pointer()).canary
    if canary is None:
        raise InvalidInput(f"{folder.path}: no canary serves, expected one")
    return canary


def _served(folder: LiveFolder, pointer: ModelPointer | None) -> ModelPointer:
    if pointer is None:
        raise InvalidInput(f"{folder.path}: no pointer.json, expected a version that serves")
    return pointer


def _check(folder: LiveFolder, target: LiveVersion, held: ModelPointer) -> None:
    """Load the version of a canary. Raises InvalidRelease, or ReleaseMismatch as services do."""
    found = load_live(folder, target).release.space.fingerprint
    expected = Release.load(folder.base_dir(held.base)).space.fingerprint
    if found != expected:
        raise ReleaseMismatch(
            f"{target.base}: SID space fingerprint {found:016x}, expected {expected:016x}"
        )


def _with_canary(held: ModelPointer, epoch: int, canary: ModelCanary | None) -> ModelPointer:
    return held.model_copy(update={"epoch": epoch, "written_ms": now_ms(), "canary": canary})


def _percent(text: str) -> float:
    with suppress(ValueError):
        if 0 < (percent := float(text)) < 100:
            return percent
    raise argparse.ArgumentTypeError(f"{text!r}, expected above 0 and below 100")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{program('training')} canary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--live", type=Path, required=True, metavar="DIR", help="live folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--base", metavar="BASE+N", help="version, as answers name it")
    what.add_argument("--release", type=Path, metavar="DIR", help="release to add as a base")
    what.add_argument(
        "--compare", nargs="+", metavar="URL", help="services, all processes; read their metrics"
    )
    what.add_argument("--end", choices=["promote", "drop"], help="end the canary")
    add("--percent", type=_percent, metavar="P", help="of the users, above 0 and below 100")
    add("--redis", metavar="URL", help="default: THINKAHEAD_REDIS_URL, or the embedded server")
    add_namespace_argument(parser)
    options = parser.parse_args(arguments)
    begins = options.base is not None or options.release is not None
    if begins != (options.percent is not None):
        parser.error("--percent comes with --base or --release")
    return options
