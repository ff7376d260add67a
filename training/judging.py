"""Judges the models of a first round on the held-out test items, which none of them has learnt."""

from typing import Any

from models.online.finish import Finisher
from models.online.memory.neighbours import Neighbours
from models.online.torch_runtime import fastest_searcher
from models.reasoner.placement import place
from models.reasoner.transformers_engine import TransformersReasoner
from training.held_out_table import (
    COUNTS,
    MEMORY,
    ONLINE,
    ONLINE_NO_MEMORY,
    POPULARITY,
    TWO_TIERS,
    make_table,
)
from training.publishing import load_online, publish_run
from training.run import Run
from training.target_ranks import (
    NUM_ASKED,
    cut_cases,
    prefixes_at_once,
    rank_by_counts,
    rank_by_finisher,
    rank_by_popularity,
    repeat_share,
)


def held_out_stage(run: Run) -> dict[str, Any]:
    """Judge the models of the first round on the test items, and publish them in the work folder.

    Returns the held-out table. `bench quality` runs on the release `work/held-out`.
    """
    table = judge(run)
    name = f"{run.work.name.removesuffix('.work')}-held-out"
    publish_run(run, run.work / "held-out", name=name, table=table)
    return table


def judge(run: Run) -> dict[str, Any]:
    """Return the held-out table: popularity, counts, memory, the online model, both tiers."""
    catalog = run.catalog()
    cases = cut_cases(run.dataset, catalog, seed=run.recipe.seed, types=run.recipe.types)
    memory = run.memory()
    neighbours = memory.neighbours()
    recommender = load_online(run)
    alone = Finisher(fastest_searcher(recommender), catalog)
    online = Finisher(fastest_searcher(recommender), catalog, neighbours)
    asked = cases[:NUM_ASKED]
    reasoner = TransformersReasoner.load(run.work / "reasoner", catalog.space, **place()._asdict())
    prefixes = prefixes_at_once(reasoner, catalog, asked, most=run.recipe.reasoner.history)
    ranks = {
        POPULARITY: rank_by_popularity(catalog, cases),
        COUNTS: rank_by_counts(catalog, Neighbours.of(memory.counts, memory.settings), cases),
        MEMORY: rank_by_counts(catalog, neighbours, cases),
        ONLINE_NO_MEMORY: rank_by_finisher(alone, catalog, cases),
        ONLINE: rank_by_finisher(online, catalog, cases),
        TWO_TIERS: rank_by_finisher(online, catalog, asked, prefixes),
    }
    return make_table(ranks, repeats=repeat_share(cases))
