"""`python -m bench faithfulness`: test if the reasons of served items are true.

A real store, nights by the public command, and a real service that explains its lists. Counts the
steps from history to thought to item (Fig. 5 of the paper), compares the item that is given as a
reason with simpler choices, and deletes it from the history.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence

from rich.console import Console

from bench.common.leave_one_out import learnt_histories
from bench.common.own_data import load_own_data
from bench.common.results import open_console, open_progress, report
from bench.quality.quality_options import add_budget, describe_run, draw_cases, quality_parser
from bench.quality.ranking.paired_differences import print_differences, to_json
from bench.reasons.because_items import BECAUSE, because_rows
from bench.reasons.deletions import deletion_rows, measure, plan_deletions, variants
from bench.reasons.explained import Explained, ask_all
from bench.reasons.product_run import Product, open_product
from bench.reasons.thought_steps import step_rows
from models.catalog.dataset import Dataset, Interaction
from models.release.release import Release

_STEPS = ("name", "claims", "share", "another")
_PAIRS = ("name", "same_topic", "words", "bought_together")
_DELETIONS = ("name", "drop", "left_ten", "left_hundred")

Histories = Mapping[str, Sequence[Interaction]]


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    console = open_console()
    release = Release.load(options.release)
    dataset = load_own_data(options, release)
    cases = [case for case in draw_cases(options, release, dataset) if case.seen]
    rows_of = {case.history.user_id: case.seen for case in cases}
    histories = _cut(dataset, held_out=1 if options.split == "test" else 2)
    folder = options.cache / "faithfulness"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open_product(folder.resolve(), options.release.resolve()) as product:
        found = _explain(console, product, release, rows_of, histories, options)
        planned = plan_deletions(found, release.catalog, seed=options.seed)
        changed = variants(planned, histories)
        product.import_histories("variants", changed)
        product.think(list(changed), paths=1, width=1)
        with (
            product.serve() as answers,
            open_progress(console, "deleting", len(planned)) as on_progress,
        ):
            fall = measure(planned, answers, on_progress=on_progress)
    deleted, gains = deletion_rows(fall, seed=options.seed)
    learnt = learnt_histories(dataset, release.catalog)
    rows = [
        *step_rows(found, release.catalog, seed=options.seed),
        *because_rows(found, release.catalog, learnt, seed=options.seed),
        *deleted,
    ]
    meta = {
        **describe_run("faithfulness", options, release, found),
        "paths": options.paths,
        "width": options.width,
        "deletions": len(fall.rank[BECAUSE]),
        "differences": to_json(gains),
    }
    title = f"Truth of reasons: {meta['release']}, {len(found):,} users"
    report(console, options.json, title, meta, rows, (_STEPS, _PAIRS, _DELETIONS))
    print_differences(console, gains)
    return 0


def _cut(dataset: Dataset, *, held_out: int) -> dict[str, list[Interaction]]:
    """Return all histories without the last items."""
    cut = {user_id: events[:-held_out] for user_id, events in dataset.histories.items()}
    return {user_id: events for user_id, events in cut.items() if events}


def _explain(
    console: Console,
    product: Product,
    release: Release,
    rows_of: Mapping[str, tuple[int, ...]],
    histories: Histories,
    options: argparse.Namespace,
) -> list[Explained]:
    """Import everybody, think about some users, and ask for their explained lists."""
    product.import_histories("everybody", histories)
    product.think(list(rows_of), paths=options.paths, width=options.width)
    with (
        product.serve() as answers,
        open_progress(console, "asking", len(rows_of)) as on_progress,
    ):
        return ask_all(
            answers, rows_of, redis_url=product.redis_url, release=release, on_progress=on_progress
        )


def _parser() -> argparse.ArgumentParser:
    parser = quality_parser("faithfulness", __doc__, num_users=1000)
    add_budget(parser)
    return parser
