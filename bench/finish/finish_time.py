"""`python -m bench finish`: CPU time of one finish, compared with `generate` of transformers.

All rows are measured in one run on one thread, for the same users and the same C_u. `generate` runs
the bundled baseline (`bench/baseline`): a decoder-only language model over SID tokens, of our
recommender's size and trained on the same data. Times are CPU times of this process. A contender
answers one request before it is timed.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import Progress

from bench.common.command_line import add_json, add_own_data, add_release, add_seed, make_parser
from bench.common.leave_one_out import cut_histories
from bench.common.own_data import load_own_data
from bench.common.results import open_console, print_table, write_json, write_markdown
from bench.finish.contenders import Contender
from bench.finish.finish_world import Request, World, histories_of, random_world, real_world
from bench.finish.flop_count import measured_peak
from models.release.release import Release

_COLUMNS = (
    "name", "history", "prefixes", "codebook", "kept_history", "pruned", "cpu_ms_p50",
    "cpu_ms_p90", "ratio_to_generate", "ratio_to_exact_generate", "nodes", "gflop", "peak_share",
)  # fmt: skip

Row = dict[str, str | int | float]


class Setting(NamedTuple):
    """Size of the requests of one table section."""

    history: int  # items
    prefixes: int  # of C_u
    codebook: int = 0  # 0: the release's own


SETTINGS = (
    Setting(50, 100),
    Setting(20, 100),
    Setting(150, 100),
    Setting(50, 32),
    Setting(50, 10),
    Setting(50, 100, codebook=8192),
)


class Timing(NamedTuple):
    """Measurement of one contender."""

    ms_U: list[float]  # CPU time of each answer
    nodes: float  # opened per answer, mean
    flop: float  # floating-point operations per answer, mean


def measure(contenders: Sequence[Contender], requests: Sequence[Request]) -> Iterator[Timing]:
    """Yield one timing per contender, in order."""
    for contender in contenders:
        ms_U, nodes, flop = [], 0, 0.0
        for at, request in enumerate(requests):
            contender.prepare(*request)
            if at == 0:
                contender.answer()
                contender.prepare(*request)
            started = time.process_time_ns()
            contender.answer()
            ms_U.append((time.process_time_ns() - started) / 1e6)
            nodes, flop = nodes + contender.nodes, flop + contender.flop
        yield Timing(ms_U, nodes / len(requests), flop / len(requests))


def rows_of(
    setting: Setting,
    world: World,
    contenders: Sequence[Contender],
    timings: Sequence[Timing],
    peak: float,
) -> list[Row]:
    """Return one row per contender.

    Ratios compare medians with those of `generate`, with 10 beams and exact, in the same setting.
    """
    median = {
        contender.name: float(np.median(timing.ms_U))
        for contender, timing in zip(contenders[:2], timings, strict=False)
    }
    rows: list[Row] = []
    for contender, timing in zip(contenders, timings, strict=True):
        p50, p90 = np.percentile(timing.ms_U, [50, 90]).tolist()
        row: Row = {
            "name": contender.name,
            "history": setting.history,
            "prefixes": setting.prefixes,
            "codebook": max(world.catalog.space.sizes),
            "precision": "float32",
            "exact": int(contender.exact),
            "kept_history": int(contender.kept_history),
            "pruned": int(contender.pruned),
            "trained": int(setting.codebook == 0),
            "users": len(timing.ms_U),
            "cpu_ms_p50": p50,
            "cpu_ms_p90": p90,
            "ratio_to_generate": median["generate"] / p50,
            "ratio_to_exact_generate": median["generate_exact"] / p50,
        }
        if timing.flop:
            row |= {"nodes": timing.nodes, "gflop": timing.flop / 1e9}
            row["peak_share"] = timing.flop / 1e6 / float(np.mean(timing.ms_U)) / peak
        rows.append(row)
    return rows


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    release = Release.load(options.release)
    world = real_world(release, options.baseline)
    cases = cut_histories(load_own_data(options, release), release.catalog, split="test")
    histories = [case.seen for case in cases]
    peaks, rows = measured_peak(), []
    console = open_console()
    with Progress(console=console) as progress:
        task = progress.add_task("settings", total=len(SETTINGS))
        for setting in SETTINGS:
            here = world
            if setting.codebook:
                here = random_world(
                    release, options.baseline, codebook=setting.codebook, seed=options.seed
                )
            chosen = histories_of(histories, length=setting.history, num_users=options.users)
            requests = here.requests(chosen, num_prefixes=setting.prefixes)
            contenders = here.contenders()
            timings = list(measure(contenders, requests))
            rows += rows_of(setting, here, contenders, timings, max(peaks.values()))
            progress.advance(task)
    _report(options, release, world, peaks, rows)
    return 0


def _report(
    options: argparse.Namespace,
    release: Release,
    world: World,
    peaks: dict[str, float],
    rows: list[Row],
) -> None:
    title = "one finish: CPU ms of one thread, and ratios of `generate` to it"
    print_table(open_console(), title, rows, _COLUMNS)
    meta = {
        "command": "finish",
        "release": f"{release.name}@{release.version}",
        "items": len(release.catalog),
        "peak_gflops": {library: round(peak, 1) for library, peak in peaks.items()},
        "baseline_parameters": world.generator.num_parameters if world.generator else 0,
    }
    print(f"peak of this core, GFLOP/s: {meta['peak_gflops']}")
    if options.json:
        write_json(options.json, meta, rows)
        write_markdown(options.json.with_suffix(".md"), title, meta, rows, _COLUMNS)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("finish", __doc__)
    add = parser.add_argument
    add_release(parser)
    add_own_data(parser)
    add(
        "--baseline",
        type=Path,
        default=Path("bench/baseline"),
        metavar="DIR",
        help="(default: %(default)s)",
    )
    add("--users", type=int, default=20, metavar="N", help="requests per setting")
    add_seed(parser)
    add_json(parser)
    return parser
