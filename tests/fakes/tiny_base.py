"""Learners over a small pretrained base that knows only a few itemic tokens."""

from pathlib import Path

import torch

from models.catalog.catalog import Catalog
from models.catalog.sid import SidSpace
from models.reasoner.prompts import caption
from training.learner import Learner, new_learner
from training.reasoner_recipes import HardwareRecipe, NanoConfig, ReasonerRecipe

NANO = NanoConfig(text_tokens=400, width=32, layers=2, heads=2, mlp_width=64)


def write_base(catalog: Catalog, directory: Path, *, ties: bool = True) -> Path:
    """Write a Qwen3 of two layers; with `ties` its head is its embedding."""
    texts = [caption(catalog, row) for row in range(len(catalog))]
    known = new_learner(ReasonerRecipe(), NANO, SidSpace((2, 2, 2)), texts, seed=0)
    if not ties:
        known.model.config.tie_word_embeddings = False
        head = known.model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    known.export(directory)
    return directory


def lora_learner(
    base: Path,
    catalog: Catalog,
    hardware: HardwareRecipe | None = None,
    *,
    rows: str = "fresh",
) -> Learner:
    """Load the base with an adapter that is not zero and the rows of its fresh tokens."""
    recipe = ReasonerRecipe(base=str(base), tuning="lora", lora_rank=2, rows=rows)
    learner = new_learner(recipe, NANO, catalog.space, [], seed=0, hardware=hardware)
    made = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in learner.model.named_parameters():
            if "lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=made))
    return learner
