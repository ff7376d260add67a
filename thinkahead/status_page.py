"""`thinkahead status`: one page on store, night, release, learner, worker and service."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from models.errors import ThinkAheadError, one_line
from models.lease import is_held
from models.release.live import LiveFolder
from models.release.release import Release
from models.store.embedded import state_folder
from offline.commands.exits import exit_of
from offline.commands.options import add_store_arguments, default_out, open_store
from offline.live.status import read_status, render_status
from offline.settings import NIGHT_LEASE
from service.settings import mask_url
from thinkahead.words import with_namespace
from training.learn.one_learner import is_learning

_TIMEOUT_S = 0.5


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(with_namespace(arguments))
    out_dir: Path = options.out or default_out(options.namespace)
    code = 0
    try:
        _show("store", _store(options, out_dir))
    except ThinkAheadError as exc:
        ending = exit_of(exc)
        code = ending.code if ending else 78
        _show("store", one_line(exc))
    running = is_held(out_dir / NIGHT_LEASE)
    _show("night", "running now" if running else "not running now")
    for release in options.release:
        _show("release", _release(release))
    for live in sorted(state_folder(None).glob("*.live")):
        _show("learner", _learner(live))
    _show("service", _service(options.url))
    return code


def _show(name: str, text: str) -> None:
    """Print a part of the page, its later lines below the first."""
    print(f"{name:<9}{text.replace(chr(10), chr(10) + ' ' * 9)}")


def _store(options: argparse.Namespace, out_dir: Path) -> str:
    """Describe users, workers, live layers and kept generations. Raises ThinkAheadError."""
    url = options.redis or os.environ.get("THINKAHEAD_REDIS_URL")
    address = mask_url(url) if url else "embedded server"
    with open_store(options) as (store, runner):
        status = runner.run(read_status(store, now_s=int(time.time()), out_dir=out_dir))
        used = runner.run(store.memory()).used
        workers = runner.run(store.count_workers())
    head = f"{address}, {used / 1e6:.1f} MB\nworkers on demand: {workers or 'none'}"
    return f"{head}\n{render_status(status)}"


def _release(directory: Path) -> str:
    try:
        release = Release.load(directory)
    except ThinkAheadError as exc:
        return one_line(exc)
    learnt = release.manifest.learnt
    return (
        f"{directory}: {release.name}@{release.version}, {len(release.catalog):,} items, "
        f"learnt: {learnt}"
    )


def _learner(live: Path) -> str:
    """Describe a live folder, and if a learner of this machine writes it."""
    running = "running" if is_learning(live) else "not running"
    try:
        pointer = LiveFolder(live).pointer()
    except ThinkAheadError as exc:
        return f"{live}: {running}, {one_line(exc)}"
    if pointer is None:
        return f"{live}: {running}, nothing published"
    return f"{live}: {running}, {pointer.base}+{pointer.deltas} is live"


def _service(url: str) -> str:
    try:
        with urlopen(f"{url.rstrip('/')}/health/ready", timeout=_TIMEOUT_S) as answer:
            return f"{url}: ready, serves {json.load(answer)['release']}"
    except (OSError, ValueError):
        return f"{url}: no service is ready there"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="thinkahead status", description=__doc__)
    add = parser.add_argument
    add("--release", type=Path, action="append", default=[], metavar="DIR", help="describe it too")
    add_store_arguments(parser)
    add("--data", metavar="DATA", help="for the users of these data: their namespace")
    add("--out", type=Path, metavar="DIR", help="folder of generations (default: state folder)")
    add(
        "--url",
        default="http://127.0.0.1:8000",
        help="address of the service (default: %(default)s)",
    )
    return parser
