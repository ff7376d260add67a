"""`python -m training roll-back --live DIR --to BASE+N`: point to an older version again.

The version is named as answers name it, behind the `@`. A learner that runs notices and publishes
no more until it is started again. Services follow within a second.
"""

import argparse
import asyncio
import re
import sys
import time
from pathlib import Path

from models.errors import InvalidSettings, ManifestConflict, StoreUnavailable, ThinkAheadError
from models.release.live import LiveFolder, load_live
from models.store.contract import BEGINNING, ModelPointers
from models.store.embedded import resolve
from models.store.model_pointer import LiveVersion, ModelPointer
from models.store.redis_store import RedisStore

_BAD_INPUT, _TRY_LATER = 78, 75
_REDIS_TIMEOUT_MS = 5000
_VERSION = re.compile(r"([0-9a-f]{12})(?:\+(\d{1,15}))?")


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    try:
        folder = LiveFolder(options.live)
        target = folder.version(*read_version(options.to))
        with resolve(options.redis, None) as server:
            pointer = asyncio.run(_roll_back(folder, target, server.url))
        print(f"{target.base}+{target.deltas} serves, epoch {pointer.epoch}")
        return 0
    except (StoreUnavailable, ManifestConflict) as exc:
        print(f"training roll-back: {exc}", file=sys.stderr)
        return _TRY_LATER
    except ThinkAheadError as exc:
        print(f"training roll-back: {exc}", file=sys.stderr)
        return _BAD_INPUT


def read_version(text: str) -> tuple[str, int]:
    """Read `BASE+N`, or `BASE` for a base without deltas. Raises InvalidSettings."""
    found = _VERSION.fullmatch(text.rpartition("@")[2])
    if found is None:
        raise InvalidSettings(f"--to {text!r}, expected BASE+N, as in 0123456789ab+17")
    return found.group(1), int(found.group(2) or 0)


async def _roll_back(folder: LiveFolder, target: LiveVersion, url: str) -> ModelPointer:
    store = RedisStore(url, _REDIS_TIMEOUT_MS)
    try:
        return await roll_back(folder, target, store, now_ms=int(1000 * time.time()))
    finally:
        await store.close()


async def roll_back(
    folder: LiveFolder, target: LiveVersion, store: ModelPointers, *, now_ms: int
) -> ModelPointer:
    """Move the pointers of store and folder to a version; return the new pointer.

    Raises ManifestConflict if a learner moved a pointer at the same time: try again.
    """
    held, stored = folder.pointer(), await store.read_model()
    pointer = ModelPointer(
        epoch=1 + max((each.epoch for each in (held, stored) if each), default=0),
        base=target.base,
        deltas=target.deltas,
        sha256=target.sha256,
        watermark=_watermark(folder, target),
        written_ms=now_ms,
    )
    folder.move(pointer)
    await store.swap_model(stored, pointer)
    return pointer


def _watermark(folder: LiveFolder, version: LiveVersion) -> str:
    """Load a version, and return the entry in the log of the last event that it has learnt.

    Raises InvalidRelease for a version that does not load.
    """
    live = load_live(folder, version)
    if version.deltas:
        return live.watermark
    return str(live.release.manifest.recipe.get("updates", {}).get("watermark", BEGINNING))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training roll-back", description=__doc__)
    add = parser.add_argument
    add("--live", type=Path, required=True, metavar="DIR", help="live folder")
    add("--to", required=True, metavar="BASE+N", help="version, as answers name it")
    add("--redis", metavar="URL", help="default: THINKAHEAD_REDIS_URL, or the embedded server")
    return parser.parse_args(arguments)
