"""`python -m training tasks`: the tasks of perception, each with a row of a release's catalog.

Training histories of the data fill the rows. The seed determines which row of each task is shown.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.program import program
from training.exit_codes import run_command


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    return run_command("training", lambda: _show(options))


def _show(options: argparse.Namespace) -> None:
    # Imported here: its libraries take seconds to load, which help need not wait for.
    from training.perception.task_examples import example_table, release_examples

    print(example_table(release_examples(options.release, options.data, seed=options.seed)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"{program('training')} tasks", description=__doc__)
    parser.add_argument("--release", type=Path, required=True, help="catalog and tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="data folder, or files of events")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)
