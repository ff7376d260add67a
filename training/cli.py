"""Command line of training: run one stage, make a release of all stages, or renew a release.

`learn` has a command line of its own, see `training.learn.cli`.
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from models.program import program
from models.release.release import Learns
from training.children import run_children
from training.exit_codes import run_command
from training.held_out_table import cells
from training.recipe_choice import Config, check_items, check_seen
from training.rounds import make_release
from training.run import HELD_OUT, Run
from training.run_display import RunDisplay
from training.split import check_enough
from training.stages import STAGES, run_stage
from training.steps import StepsFile

_COMPARED = ("baseline", "sasrec")  # baselines of the benchmarks


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return run_command("training", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    import torch  # takes a second to load, which help and rejected options need not wait for

    torch.set_num_threads(options.threads)
    run = Run.open(options.data, options.work, options.config, seed=options.seed)
    if options.stage == "all":
        _make_release(run, options)
    elif options.stage == "renew":
        _renew(run, options)
    elif options.stage in _COMPARED:
        _train_baseline(run, options)
    else:
        if options.steps is not None:
            StepsFile(options.steps).follow()
        run_stage(run.second() if options.learns is Learns.EVERYTHING else run, options.stage)


def _renew(run: Run, options: argparse.Namespace) -> None:
    from training.renew import renew  # as a stage, imported when it runs

    renew(
        options.out,
        options.data,
        run.recipe,
        keep_weights=options.keep_weights,
        teacher_dir=lambda learns, recipe: options.teacher or run.teacher_dir(learns, recipe),
        reasoner_work=options.reasoner,
        learns=options.learns,
        out=options.to,
    )


def _train_baseline(run: Run, options: argparse.Namespace) -> None:
    if options.stage == "baseline":
        from training.train_sid_lm import baseline_stage

        baseline_stage(run, options.release, options.out)
    else:
        from training.sasrec_folder import sasrec_stage

        sasrec_stage(
            run, options.release, options.out, learns=options.learns, chosen=options.chosen
        )


def _make_release(run: Run, options: argparse.Namespace) -> None:
    check_enough(run.split, options.data)
    check_items(run.recipe, run.size, options.data)
    check_seen(run.recipe)
    command = [sys.executable, "-m", "training"]
    for name in ("data", "work", "config", "seed"):
        command += [f"--{name}", str(getattr(options, name))]
    rounds = [run] if options.learns is Learns.HELD_OUT else [run, run.second()]
    display = RunDisplay(rounds)

    def side_by_side(of: Run, stages: list[str]) -> None:
        with display.show(of):
            run_children(command, stages, learns=of.learns, folder=of.work, on_wait=display.look)

    make_release(
        run,
        options.out,
        learns=options.learns,
        is_forced=options.force,
        side_by_side=side_by_side,
        on_judged=_print_table,
    )


def _print_table(table: Mapping[str, Any]) -> None:
    console = Console()
    shown = Table("held-out test items", "users", "recall@10", "NDCG@10")
    for row in cells(table):
        shown.add_row(*row)
    console.print(shown)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program("training"), description=__doc__)
    parser.add_argument("stage", choices=["all", *STAGES, "renew", *_COMPARED])
    parser.add_argument("--data", type=Path, required=True, help="data folder, or files of events")
    parser.add_argument("--out", type=Path, help="release or baseline to write")
    parser.add_argument("--release", type=Path, help="catalog for `baseline` and `sasrec`")
    parser.add_argument("--work", type=Path, help="checkpoints (default: beside the release)")
    parser.add_argument(
        "--config",
        default=Config.AUTO.value,
        metavar="auto|fast|FILE",
        help="recipe: chosen by the size of the data, small and quick, or a TOML file "
        "(default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="for a single stage")
    parser.add_argument(
        "--keep-weights", action="store_true", help="with `renew`: publish again without training"
    )
    parser.add_argument(
        "--reasoner",
        type=Path,
        metavar="WORK",
        help="with `renew`: take the reasoner of training.remote from its work folder",
    )
    parser.add_argument(
        "--learns",
        type=Learns,
        choices=list(Learns),
        help="part of each history to learn. `all`: `everything`, after a first round that is "
        "judged (default), or `held-out` to publish the first round. `renew` (default: that of "
        "the release) and `sasrec`: all but `held-out` need a number of epochs, of the renewed "
        "release or of --chosen",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="with `all`: publish also a model that ranks below popularity or counts",
    )
    parser.add_argument(
        "--chosen",
        type=Path,
        metavar="DIR",
        help="with `sasrec`: a held-out SASRec; train for as many epochs",
    )
    parser.add_argument("--steps", type=Path, help=argparse.SUPPRESS)  # for the parent process
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="DIR",
        help="with `renew`: SASRec that has learnt the same part, trained into DIR if there is "
        "none (default: in the work folder)",
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="with `renew`: publish here instead")
    options = parser.parse_args(arguments)
    _check(parser, options)
    options.work = options.work or options.out.with_name(options.out.name + ".work")
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that would do nothing, and fill in the default of --learns."""
    if options.keep_weights and options.learns is not None:
        parser.error("--keep-weights trains nothing, expected no --learns beside it")
    if options.learns is None and options.stage != "renew":
        options.learns = Learns.EVERYTHING if options.stage == "all" else Learns.HELD_OUT
    if options.stage in ("all", "renew", *_COMPARED) and options.out is None:
        parser.error(f"{options.stage} needs --out")
    if options.stage in _COMPARED and options.release is None:
        parser.error(f"{options.stage} needs --release")
    if options.stage not in _COMPARED and options.release is not None:
        at = "renews the release at --out" if options.stage == "renew" else "reads no release"
        parser.error(f"{options.stage} {at}, expected no --release")
    if options.stage == "sasrec" and (options.chosen is None) != (
        options.learns == Learns.HELD_OUT
    ):
        parser.error("sasrec needs --chosen with --learns, and only then")
    is_of_first_round = options.stage in ("quantize", HELD_OUT, "baseline")
    if options.learns != Learns.HELD_OUT and is_of_first_round:
        parser.error(f"{options.stage} learns the held-out part, expected no --learns")
    if options.learns is Learns.NOT_THE_TEST and options.stage not in ("renew", "sasrec"):
        parser.error(
            f"{options.stage} leaves out all targets or none, expected no --learns {options.learns}"
        )
    if options.force and options.stage != "all":
        parser.error(f"{options.stage} has no gate, expected no --force")
    if options.to is not None and options.stage != "renew":
        parser.error(f"{options.stage} publishes at --out, expected no --to")
    if options.teacher is not None and (options.stage != "renew" or options.keep_weights):
        parser.error("only `renew` has a teacher, and not with --keep-weights")
    if options.out is None and options.work is None:
        parser.error(f"{options.stage} needs --work")
