"""The stages of a training run, all in one work folder.

A stage that finished with the same data and recipe is not run again, so an interrupted run resumes.
The first round learns all but the held-out items, chooses epochs and is judged. The second round
trains both models once more, on everything, in a folder inside the first one's.
"""

import json
import logging
import shutil
import time
from pkgutil import resolve_name

from training.run import HELD_OUT, Run

logger = logging.getLogger(__name__)

# Function of each stage, imported when it runs: the libraries of all stages take seconds to load.
STAGES = {
    "quantize": "training.quantize_stage:quantize_stage",
    "online": "training.learn_online:online_stage",
    "reasoner": "training.reasoner_stages:reasoner_stage",
    HELD_OUT: "training.judging:held_out_stage",
}


def run_stage(run: Run, stage: str) -> None:
    """Run one of STAGES, unless it is already done, and log its report."""
    run.work.mkdir(parents=True, exist_ok=True)
    if run.is_done(stage):
        logger.info("%s: already done with this data and recipe", stage)
        return
    started = time.monotonic()
    made = resolve_name(STAGES[stage])(run)
    run.finish(stage, made)
    logger.info("%s: %.0f s, made %s", stage, time.monotonic() - started, json.dumps(made))


def open_second(run: Run) -> Run:
    """Return the second round, with the SIDs of the first one and popularity of everything."""
    second = run.second()
    second.work.mkdir(parents=True, exist_ok=True)
    catalog = run.catalog().with_popularity(second.split.popularity)
    catalog.save(second.work / "catalog.parquet")
    run.item_vectors()  # makes their file if somebody has deleted it
    shutil.copyfile(run.vectors_file, second.vectors_file)
    second.finish("quantize", run.outcome("quantize"))
    return second
