"""First stage of a training run: an SID for every item, in a catalog."""

import logging
from typing import Any

from models.catalog.catalog import build_catalog
from training.item_text import item_sentence
from training.quantize import count_sids, quantize
from training.run import Run

logger = logging.getLogger(__name__)


def quantize_stage(run: Run) -> dict[str, Any]:
    """Assign SIDs to items; writes `catalog.parquet`."""
    recipe, items = run.recipe.quantize, run.dataset.items
    has_texts = any(map(item_sentence, items.values()))
    if not has_texts:
        logger.warning("no item has a text: semantic ids come from co-occurrence alone")
    made = quantize(
        run.item_vectors(),
        sizes=recipe.sizes,
        prefix_depth=recipe.prefix_depth,
        seed=run.recipe.seed,
    )
    sids = {item: tuple(sid) for item, sid in zip(items, made.sids.tolist(), strict=True)}
    catalog = build_catalog(made.space, sids, items, run.split.popularity)
    catalog.save(run.work / "catalog.parquet")
    return {
        "space": {
            "sizes": list(made.space.sizes),
            "prefix_depth": made.space.prefix_depth,
            "codebook": made.space.codebook,
        },
        **count_sids(catalog),
        "has_texts": has_texts,
    }
