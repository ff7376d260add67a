"""A reasoner of the toy world, trained for seconds."""

import atexit
import shutil
import tempfile
from pathlib import Path

import torch

from models.catalog.catalog import Catalog
from models.reasoner.prompts import caption
from models.reasoner.rationales import category_rationale, rationale_text
from tests.fakes.toy import toy_histories
from training.activation import activate
from training.nano import build_tokenizer, new_reasoner
from training.reasoner_recipes import ActivateRecipe, NanoConfig
from training.tasks import Tasks

_trained_reasoners: dict[object, Path] = {}


def write_toy_reasoner(catalog: Catalog, directory: Path) -> None:
    """Write a small Qwen3 that closes most of its thoughts. Trained once a process and catalog."""
    texts = (catalog.titles, catalog.brands, catalog.categories)
    key = (catalog.space, catalog.item_ids, *texts, catalog.sids.tobytes())
    if key not in _trained_reasoners:
        home = Path(tempfile.mkdtemp(prefix="toy-reasoner-"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        train_toy_reasoner(catalog, home)
        _trained_reasoners[key] = home
    shutil.copytree(_trained_reasoners[key], directory, dirs_exist_ok=True)


def train_toy_reasoner(catalog: Catalog, directory: Path) -> None:
    """Train a Qwen3 of about 30,000 parameters for seconds."""
    rows = range(len(catalog))
    texts = [caption(catalog, row) for row in rows]
    texts += [rationale_text(category_rationale(catalog, [row], row)) for row in rows]
    tokenizer = build_tokenizer(texts, catalog.space, text_tokens=320)
    torch.manual_seed(0)
    model = new_reasoner(NanoConfig(width=32, layers=1, heads=2, mlp_width=64), tokenizer)
    tasks = Tasks(catalog, toy_histories(catalog, num_users=200), tokenizer, 0)
    recipe = ActivateRecipe(
        rationale_epochs=2, sequence_epochs=0, learning_rate=2e-2, batch_tokens=1024
    )
    activate(model, tasks, recipe)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
