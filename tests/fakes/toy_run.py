"""A training run over the toy world, with quantized items and a recipe that takes seconds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from tests.fakes.toy import toy_catalog, toy_histories
from training.reasoner_recipes import (
    ActivateRecipe,
    AlignRecipe,
    BootstrapRecipe,
    EnhanceRecipe,
    IntegrateRecipe,
    NanoConfig,
    ReasonerRecipe,
    ThoughtRecipe,
    WarmupRecipe,
)
from training.recipe import Recipe
from training.run import Run

STAGES = ("align", "warmup", "integrate", "bootstrap", "activate", "enhance")
RECIPE = Recipe(
    nano=NanoConfig(text_tokens=600, width=32, layers=1, heads=2, mlp_width=64),
    reasoner=ReasonerRecipe(stages=STAGES),
    align=AlignRecipe(interleaved_epochs=1, learning_rate=2e-2),
    warmup=WarmupRecipe(batch_tokens=1024),
    integrate=IntegrateRecipe(tokens=10_000, batch_tokens=2048),
    bootstrap=BootstrapRecipe(users=6, tries=1, max_tokens=6),
    thoughts=ThoughtRecipe("bootstrapped", wish_share=0.2, silent_share=0.2, max_tokens=30),
    activate=ActivateRecipe(rationale_epochs=12, learning_rate=2e-2, batch_tokens=1024),
    enhance=EnhanceRecipe(group=2, beams=3, prompts=4, max_steps=2),
)


def toy_run(directory: Path, recipe: Recipe) -> Run:
    """A data folder of the toy world, and quantizing as if it had been done."""
    catalog, data = toy_catalog(), directory / "data"
    data.mkdir()
    histories = toy_histories(catalog, num_users=40)
    events = [
        (f"u{user}", catalog.item_ids[row], pos)
        for user, rows in enumerate(histories)
        for pos, row in enumerate(rows)
    ]
    columns = zip(("user_id", "item_id", "pos"), zip(*events, strict=True), strict=True)
    pq.write_table(pa.table(dict(columns)), data / "interactions.parquet")
    texts = {
        "item_id": catalog.item_ids,
        "title": catalog.titles,
        "categories": [" > ".join(path) for path in catalog.categories],
    }
    pq.write_table(pa.table(texts), data / "items.parquet")
    made = Run(data, directory / "work", recipe)
    made.work.mkdir()
    catalog.save(made.work / "catalog.parquet")
    made.finish("quantize", {"space": {"sizes": [8, 8, 16], "prefix_depth": 2, "codebook": "toy"}})
    vectors = np.random.default_rng(0).normal(size=(len(catalog), 6)).astype(np.float32)
    file = made.work / f"item_vectors_{made.key('quantize')}.safetensors"
    save_file({"vectors": torch.from_numpy(vectors)}, file)
    return made
