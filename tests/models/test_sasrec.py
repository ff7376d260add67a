"""SASRec beside ours: causal, padded as alone, learns an order, saved and loaded as it is."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from bench.quality.quality import main as quality
from models.baselines.sasrec import SasRec, SasRecConfig, load_sasrec, save_sasrec
from models.errors import InvalidRelease, ReleaseMismatch
from tests.fakes.toy import toy_catalog
from tests.fakes.toy_split import circles
from training.history_batches import Batch
from training.online_recipes import FitRecipe, SasRecRecipe
from training.train_sasrec import next_item_loss, train_sasrec


def small_model() -> SasRec:
    torch.manual_seed(0)
    return SasRec(SasRecConfig(num_items=40, width=16, window=8)).eval()


def test_a_row_depends_on_what_is_before_it_alone() -> None:
    model, rows = small_model(), torch.tensor([[3, 9, 4, 7]])
    changed = rows.clone()
    changed[0, 2:] = torch.tensor([11, 12])
    assert torch.equal(model(rows)[:, :2], model(changed)[:, :2])
    assert not torch.equal(model(rows)[:, 2], model(changed)[:, 2])


def test_histories_of_several_users_score_as_alone_and_the_newest_count() -> None:
    model = small_model()
    histories = [[1, 2, 3], [4], list(range(20))]
    together = model.score(histories)
    for user, history in enumerate(histories):
        alone = model.score([history[-8:]])[0]
        assert torch.allclose(together[user], alone, atol=1e-5)


def test_the_loss_is_the_cross_entropy_of_every_item_after_the_first() -> None:
    model, histories = small_model(), [[3, 9, 4], [7, 5], [6]]
    rows = torch.tensor([[3, 9, 4], [7, 5, 0], [6, 0, 0]])
    step = (
        Batch(rows[:2], torch.tensor([3, 2]), rows[:2]),
        Batch(rows[2:], torch.tensor([1]), rows[2:]),
    )
    parts = [
        functional.cross_entropy(model.score([history[:at]]), torch.tensor([history[at]]))
        for history in histories
        for at in range(1, len(history))
    ]
    assert next_item_loss(model, step).item() == pytest.approx(
        sum(part.item() for part in parts) / len(parts), rel=1e-5
    )


def test_it_learns_that_items_follow_one_another() -> None:
    catalog = toy_catalog(num_items=20)
    settings = FitRecipe(epochs=16, batch_users=32, learning_rate=5e-3)
    recipe = SasRecRecipe(width=16, dropout=0.1)
    model, metrics = train_sasrec(recipe, settings, catalog, circles(catalog))
    assert metrics["recall@10"] > 0.9
    assert not model.training


def test_a_saved_model_is_loaded_as_it_is_and_for_its_own_catalog_only(tmp_path: Path) -> None:
    model, file = small_model(), tmp_path / "model.safetensors"
    item_ids = [f"item-{number}" for number in range(40)]
    save_sasrec(model, file, item_ids)
    loaded = load_sasrec(file, item_ids)
    assert loaded.config == model.config
    assert torch.allclose(loaded.score([[1, 2]]), model.score([[1, 2]]), atol=0.1)
    with pytest.raises(ReleaseMismatch, match="knows other items"):
        load_sasrec(file, item_ids[::-1])
    file.write_bytes(b"no model")
    with pytest.raises(InvalidRelease, match=r"model\.safetensors"):
        load_sasrec(file, item_ids)


def test_a_folder_without_a_model_is_one_that_the_table_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidRelease, match=r"model\.safetensors"):
        quality(["--sasrec", str(tmp_path), "--users", "2", "--cache", str(tmp_path)])
