"""A whole training: a first round that is judged, a second one that learns everything, a release.

    work/             first round: SIDs, models that learn all but the held-out items, the table
    work/held-out/    their release, for `bench quality`
    work/everything/  second round: the models to publish

A model that ranks below the simple rows is not published, unless it is forced.
"""

from collections.abc import Callable
from pathlib import Path

from models.errors import GatesFailed
from models.release.release import Learns, Release
from training.held_out_table import Table, shortfalls
from training.run import HELD_OUT, Run
from training.stages import open_second, run_stage

SideBySide = Callable[[Run, list[str]], None]  # runs stages of a round at the same time
BOTH_MODELS = ("online", "reasoner")


def make_release(
    run: Run,
    out: Path,
    *,
    learns: Learns,
    is_forced: bool,
    side_by_side: SideBySide,
    on_judged: Callable[[Table], None],
) -> Release:
    """Run all stages that are not done yet, and publish at `out`.

    Args:
        side_by_side: trains the models that a round still needs.
        learns: EVERYTHING, or HELD_OUT to publish the models of the first round.
        is_forced: publish also a model that ranks below the simple rows.
        on_judged: gets the held-out table.

    Raises:
        GatesFailed: the online model ranks below a simple row, and is not forced. The work
            folder keeps the first round.
    """
    run_stage(run, "quantize")
    _train_models(run, side_by_side)
    run_stage(run, HELD_OUT)
    table = run.outcome(HELD_OUT)
    on_judged(table)
    failed = shortfalls(table)
    if failed and not is_forced:
        raise GatesFailed(
            f"{out}: not published: {'; '.join(failed)}. The models are kept in {run.work}; "
            "the same command with --force (make: FORCE=1) goes on without training them again"
        )
    from training.publishing import publish_run  # as a stage, imported when it runs

    published = run
    if learns is Learns.EVERYTHING:
        published = open_second(run)
        _train_models(published, side_by_side)
    return publish_run(published, out, name=out.name, table=table, forced=failed)


def _train_models(run: Run, side_by_side: SideBySide) -> None:
    for stage in BOTH_MODELS:
        if run.is_done(stage):
            run_stage(run, stage)  # logs that it is done
    side_by_side(run, [stage for stage in BOTH_MODELS if not run.is_done(stage)])
