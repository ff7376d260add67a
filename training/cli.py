"""Command line of training: run one stage, make a release of all stages, or renew a release."""

import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from models.errors import ThinkAheadError
from models.release.release import Learns
from training.recipe import load_recipe
from training.renew import renew
from training.split import check_enough
from training.stages import STAGES, Run, publish_stage, run_stage
from training.train_sasrec import sasrec_stage
from training.train_sid_lm import baseline_stage

_NANO = Path(__file__).parent / "runs" / "nano.toml"
_BAD_INPUT = 78
_COMPARED = ("baseline", "sasrec")  # baselines of the benchmarks


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    try:
        recipe = load_recipe(options.config, seed=options.seed)
        if options.stage == "renew":
            renew(
                options.out,
                options.data,
                recipe,
                keep_weights=options.keep_weights,
                reasoner_work=options.reasoner,
                learns=options.learns,
                out=options.to,
            )
            return 0
        run = Run(options.data, options.work, recipe)
        if options.stage in _COMPARED:
            _train_baseline(run, options)
            return 0
        if options.stage != "all":
            run_stage(run, options.stage)
            return 0
        check_enough(run.split, options.data)
        for stage in STAGES:
            if stage == "quantize" or run.is_done(stage):  # `run_stage` logs that it is done
                run_stage(run, stage)
        _run_side_by_side(options, [stage for stage in STAGES if not run.is_done(stage)])
        publish_stage(run, options.out)
        return 0
    except ThinkAheadError as exc:
        print(f"training: {exc}", file=sys.stderr)
        return _BAD_INPUT


def _train_baseline(run: Run, options: argparse.Namespace) -> None:
    if options.stage == "baseline":
        baseline_stage(run, options.release, options.out)
    else:
        sasrec_stage(
            run, options.release, options.out, learns=options.learns, chosen=options.chosen
        )


def _run_side_by_side(options: argparse.Namespace, stages: list[str]) -> None:
    """Run stages in parallel, each in a process with one thread.

    On two cores this is faster than one stage after the other with two threads.
    """
    command = [sys.executable, "-m", "training"]
    shared = ["--data", options.data, "--work", options.work, "--config", options.config]
    plain = os.environ | {"TERM": "dumb"}  # two progress bars would overwrite each other
    children = {
        stage: subprocess.Popen([*command, stage, *shared, "--seed", str(options.seed)], env=plain)
        for stage in stages
    }
    try:
        failed = [stage for stage, child in children.items() if child.wait() != 0]
    finally:
        for child in children.values():
            child.terminate()
    if failed:
        raise ThinkAheadError(f"stages {failed} failed, see above; run again to resume")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("stage", choices=["all", *STAGES, "renew", *_COMPARED])
    parser.add_argument("--data", type=Path, required=True, help="folder with the two tables")
    parser.add_argument("--out", type=Path, help="release or baseline to write")
    parser.add_argument("--release", type=Path, help="catalog for `baseline` and `sasrec`")
    parser.add_argument("--work", type=Path, help="checkpoints (default: beside the release)")
    parser.add_argument("--config", type=Path, default=_NANO, help="recipe (TOML)")
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
        default=Learns.HELD_OUT,
        help="with `renew` and `sasrec`: part of each history to learn; all but the first need a "
        "number of epochs, of the renewed release or of --chosen (default: %(default)s)",
    )
    parser.add_argument(
        "--chosen",
        type=Path,
        metavar="DIR",
        help="with `sasrec`: a held-out SASRec; train for as many epochs",
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="with `renew`: publish here instead")
    options = parser.parse_args(arguments)
    if options.stage in ("all", "renew", *_COMPARED) and options.out is None:
        parser.error(f"{options.stage} needs --out")
    if options.stage in _COMPARED and options.release is None:
        parser.error(f"{options.stage} needs --release")
    if options.stage == "sasrec" and (options.chosen is None) != (
        options.learns == Learns.HELD_OUT
    ):
        parser.error("sasrec needs --chosen with --learns, and only then")
    if options.learns != Learns.HELD_OUT:
        if options.stage not in ("renew", "sasrec"):
            parser.error(f"{options.stage} learns the held-out part, expected no --learns")
        if options.keep_weights:
            parser.error("--keep-weights trains nothing, expected no --learns beside it")
    if options.to is not None and options.stage != "renew":
        parser.error(f"{options.stage} publishes at --out, expected no --to")
    if options.out is None and options.work is None:
        parser.error(f"{options.stage} needs --work")
    options.work = options.work or options.out.with_name(options.out.name + ".work")
    return options
