"""`python -m bench refresh`: users per second of the nightly thinking, beside `generate`.

All engines run on one thread and take turns on each micro-batch, so that other load on the machine
disturbs all of them equally. Rates are per CPU second of the thinking process, which may be a Ray
worker. The bytes per user in Redis are measured too.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from transformers.utils import logging as transformers_logging

from bench.common.command_line import add_json, add_own_data, add_release, add_seed, make_parser
from bench.common.leave_one_out import cut_histories
from bench.common.own_data import load_own_data
from bench.common.results import Row, open_console, print_table, write_json, write_markdown
from bench.load.footprint import measure_bytes
from bench.night.night_engines import Thinker, load_thinkers, load_worker
from bench.night.thinking_cost import PHASES, Cost, read_notes
from models.reasoner.think import UserHistory
from models.release.release import Release

_COLUMNS = (
    "name", "users", "users_per_s", "ratio_to_plain", "tokens_per_s", "tokens_computed",
    "tokens_needed", "prefixes_per_user", *(f"seconds_{phase}" for phase in PHASES),
)  # fmt: skip


def sample_batches(
    histories: Sequence[UserHistory], *, size: int, count: int, seed: int
) -> list[list[UserHistory]]:
    """Draw micro-batches of similar histories, as a night makes them, from short to long."""
    ordered = sorted(histories, key=lambda user: (len(user.rows), user.user_id))
    whole = [ordered[at : at + size] for at in range(0, len(ordered) - size + 1, size)]
    edges = np.linspace(0, len(whole), count + 1).astype(int)
    generator = np.random.default_rng(seed)
    return [whole[generator.integers(lo, hi)] for lo, hi in pairwise(edges) if lo < hi]


def measure(
    thinkers: Sequence[Thinker],
    batches: Sequence[Sequence[UserHistory]],
    *,
    paths: int,
    width: int,
    progress: Progress,
) -> None:
    """Let every thinker think about every micro-batch, after one that is not counted."""
    task = progress.add_task("micro-batches", total=len(batches) * len(thinkers))
    for thinker in thinkers:
        thinker.think(batches[0], paths=paths, width=width)
        thinker.cost = Cost()
    for batch in batches:
        for thinker in thinkers:
            thinker.think(batch, paths=paths, width=width)
            progress.advance(task)


def row_of(name: str, cost: Cost, plain: float) -> Row:
    """Return a results row; `plain` is the rate of the `generate` loop in users per second."""
    seconds = sum(cost.seconds.values())
    rate = cost.users / seconds
    return {
        "name": name,
        "users": cost.users,
        "users_per_s": rate,
        "users_per_s_wall": cost.users / (cost.wall_s + cost.seconds["write"]),
        "ratio_to_plain": rate / plain,
        "tokens_per_s": cost.sampled / seconds,
        "tokens_computed": cost.computed,
        "tokens_needed": cost.needed,
        "prefixes_per_user": cost.prefixes / cost.users,
        **{f"seconds_{phase}": cost.seconds[phase] for phase in PHASES},
    }


def ray_row(
    release: Release, batches: Sequence[Sequence[UserHistory]], *, paths: int, width: int,
    workers: int, plain: float,
) -> Row | None:  # fmt: skip
    """Measure the transformers engine on Ray's workers; None if Ray is not installed.

    The wall clock starts at the end of an extra first micro-batch, which is not counted in its
    rate.
    """
    try:
        from models.reasoner.ray_pool import RayPool
    except ModuleNotFoundError:
        return None
    with tempfile.TemporaryDirectory(prefix="ray-notes-") as notes:
        load = partial(load_worker, release.directory, paths, width, Path(notes))
        pool = RayPool(load, workers=workers)
        found = pool.think([batches[0], *batches])
        next(found)
        started = time.perf_counter()
        users = sum(len(thoughts or ()) for thoughts in found)
        seconds = time.perf_counter() - started
        pool.close()
        row = row_of("ray", read_notes(Path(notes)), plain)
    return {**row, "workers": workers, "users_per_s_wall": users / seconds}


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    release = Release.load(options.release)
    cases = cut_histories(load_own_data(options, release), release.catalog, split="valid")
    histories = [case.history for case in cases if case.history.rows]
    batches = sample_batches(
        histories, size=options.batch, count=options.batches, seed=options.seed
    )
    console = open_console()
    thinkers = load_thinkers(release, width=options.width, say=console.print)
    asked: dict[str, Any] = {"paths": options.paths, "width": options.width}
    with Progress(console=console) as progress:
        measure(thinkers, batches, progress=progress, **asked)
    plain = thinkers[0].cost
    plain_rate = plain.users / sum(plain.seconds.values())
    rows = [row_of(thinker.name, thinker.cost, plain_rate) for thinker in thinkers]
    on_ray = ray_row(release, batches, workers=options.workers, plain=plain_rate, **asked)
    if on_ray is None:
        console.print("ray is skipped: it is not installed")
    else:
        rows.append(on_ray)
    _report(options, release, rows, measure_bytes(release, options.bytes_users))
    return 0


def _report(
    options: argparse.Namespace, release: Release, rows: list[Row], sizes: list[Row]
) -> None:
    """Print and write the results; `sizes` are the rows with the bytes per user in Redis."""
    title = "nightly thinking: users per second of one thread, and seconds per phase"
    num_rates = len(_COLUMNS) - len(PHASES)
    print_table(open_console(), title, rows, _COLUMNS[:num_rates])
    print_table(open_console(), "seconds", rows, ("name", *_COLUMNS[num_rates:]))
    print_table(open_console(), "bytes of a user in Redis", sizes, ("name", "bytes_per_user"))
    meta = {
        "command": "refresh",
        "release": f"{release.name}@{release.version}",
        "paths": options.paths,
        "width": options.width,
        "micro_batch": options.batch,
    }
    if options.json:
        write_json(options.json, meta, rows + sizes)
        columns = (*_COLUMNS, "bytes_per_user")
        write_markdown(options.json.with_suffix(".md"), title, meta, rows + sizes, columns)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("refresh", __doc__)
    add = parser.add_argument
    add_release(parser)
    add_own_data(parser)
    add("--batches", type=int, default=8, metavar="N", help="number of micro-batches")
    add("--batch", type=int, default=16, metavar="N", help="users per micro-batch")
    add("--paths", type=int, default=5, metavar="T", help="(default: %(default)s)")
    add("--width", type=int, default=10, metavar="M", help="(default: %(default)s)")
    add("--workers", type=int, default=1, metavar="N", help="Ray workers")
    add(
        "--bytes-users",
        type=int,
        default=20_000,
        metavar="N",
        help="users in Redis, to count bytes",
    )
    add_seed(parser)
    add_json(parser)
    return parser
