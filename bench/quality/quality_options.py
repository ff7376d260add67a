"""Command line options, users and meta shared by the quality commands."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common.command_line import add_own_data, add_release, add_seed, make_parser
from bench.common.leave_one_out import Case, cut_histories
from bench.common.own_data import load_own_data
from bench.quality.learnt import refuse_learnt, refuse_reader
from bench.quality.thoughts.thoughts import ThoughtSettings
from models.catalog.dataset import Dataset
from models.errors import InvalidDataset
from models.reasoner.placement import DTYPES, place
from models.reasoner.placement_options import add_placement_arguments
from models.release.release import Release


def quality_parser(
    command: str, description: str | None, *, num_users: int
) -> argparse.ArgumentParser:
    """Return a parser with the shared options.

    Args:
        num_users: default number of users of the split; 0 stands for all.
    """
    parser = make_parser(command, description)
    add = parser.add_argument
    add_release(parser)
    add_own_data(parser)
    add("--split", choices=("test", "valid"), default="test", help="(default: %(default)s)")
    add("--users", type=int, default=num_users, metavar="N", help="size of a seeded sample; 0: all")
    add_seed(parser)
    add(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: %(default)s)",
    )
    add(
        "--cache",
        type=Path,
        default=Path(".state/bench"),
        metavar="DIR",
        help="cached thoughts (default: %(default)s)",
    )
    add_placement_arguments(parser)
    add("--json", type=Path, metavar="FILE", help="results; some commands write a .md beside it")
    return parser


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add the options of the thinking budget per user."""
    parser.add_argument(
        "--paths",
        type=int,
        default=ThoughtSettings.paths,
        metavar="T",
        help="sampled paths per user (default: %(default)s)",
    )
    parser.add_argument(
        "--width",
        type=int,
        default=ThoughtSettings.width,
        metavar="M",
        help="beams per path (default: %(default)s)",
    )


def read_settings(options: argparse.Namespace) -> ThoughtSettings:
    return placed(
        options, ThoughtSettings(paths=options.paths, width=options.width, seed=options.seed)
    )


def placed(options: argparse.Namespace, settings: ThoughtSettings) -> ThoughtSettings:
    """Return settings with the device and the numbers that the options choose."""
    chosen = place(options.device, options.dtype)
    dtype = next(name for name, dtype in DTYPES.items() if dtype == chosen.dtype)
    return replace(settings, device=chosen.device, dtype=dtype)


def draw_cases(
    options: argparse.Namespace,
    release: Release,
    dataset: Dataset | None = None,
    *,
    cites: bool = False,
) -> list[Case]:
    """Return the cases that the options choose.

    Raises InvalidSettings for a release that has learnt the targets, InvalidDataset for a folder
    without any.

    Args:
        dataset: of `options.data`, if it is loaded already.
        cites: the command writes evidence into prompts; others refuse a reasoner that reads it.
    """
    refuse_learnt(release, options.split)
    if not cites:
        refuse_reader(release)
    cases = cut_histories(
        dataset or load_own_data(options, release),
        release.catalog,
        split=options.split,
        num_users=options.users or None,
        seed=options.seed,
    )
    if not cases:
        raise InvalidDataset(f"{options.data}: no user of three items or more, expected some")
    return cases


def describe_run(
    command: str, options: argparse.Namespace, release: Release, users: Sequence[Any]
) -> dict[str, Any]:
    """Return the first entries of a results file's meta."""
    return {
        "command": command,
        "release": f"{release.name}@{release.version}",
        "data": str(options.data),
        "split": options.split,
        "users": len(users),
    }
