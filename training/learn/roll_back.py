"""`python -m training roll-back --live DIR --to BASE+N`: point to an older version again.

The version is named as answers name it, behind the `@`. A learner that runs notices and publishes
no more until it is started again. A canary ends. Services follow within a second.
"""

import argparse
import re
from pathlib import Path

from models.errors import InvalidSettings
from models.program import program
from models.release.live import LiveFolder, load_live
from models.store.model_pointer import ModelPointer
from models.store.namespace import add_namespace_argument
from training.exit_codes import run_command
from training.learn.both_pointers import Change, move_both, now_ms, watermark_of

_VERSION = re.compile(r"([0-9a-f]{12})(?:\+(\d{1,15}))?")


def main(arguments: list[str]) -> int:
    options = _parse(arguments)

    def run() -> None:
        change = roll_back(LiveFolder(options.live), *read_version(options.to))
        pointer = move_both(options, change)
        print(f"{pointer.base}+{pointer.deltas} serves, epoch {pointer.epoch}")

    return run_command("training roll-back", run)


def read_version(text: str) -> tuple[str, int]:
    """Read `BASE+N`, or `BASE` for a base without deltas. Raises InvalidSettings."""
    found = _VERSION.fullmatch(text.rpartition("@")[2])
    if found is None:
        raise InvalidSettings(f"version {text!r}, expected BASE+N, as in 0123456789ab+17")
    return found.group(1), int(found.group(2) or 0)


def roll_back(folder: LiveFolder, base: str, deltas: int) -> Change:
    """Load a version, and return the change to it. Raises InvalidRelease if it does not load."""
    live = load_live(folder, folder.version(base, deltas))

    def change(_: ModelPointer | None, epoch: int) -> ModelPointer:
        return ModelPointer(
            epoch=epoch,
            **live.version._asdict(),
            watermark=watermark_of(live),
            written_ms=now_ms(),
        )

    return change


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"{program('training')} roll-back", description=__doc__)
    add = parser.add_argument
    add("--live", type=Path, required=True, metavar="DIR", help="live folder")
    add("--to", required=True, metavar="BASE+N", help="version, as answers name it")
    add("--redis", metavar="URL", help="default: THINKAHEAD_REDIS_URL, or the embedded server")
    add_namespace_argument(parser)
    return parser.parse_args(arguments)
