"""Learning from a teacher, and averaged weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.baselines.sasrec import SasRec, SasRecConfig
from models.catalog.catalog import Catalog
from models.errors import InvalidInput
from models.online.memory.memory import Memory
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.similar_items import SimilarItems
from models.online.recommender import OnlineRecommender, pack_sids
from models.online.shape import RecommenderConfig
from models.release.release import Learns
from tests.fakes.toy import toy_catalog
from tests.fakes.toy_split import circles
from training.averaging import AveragedWeights
from training.history_batches import Step, pad
from training.learn_online import learn_online
from training.online_recipes import FitRecipe, SasRecRecipe, ShapeRecipe, TeacherRecipe
from training.recipe import Recipe
from training.sid_loss import SidLoss
from training.split import training_histories
from training.teacher import TeacherLoss
from training.train_online import encode_before, new_recommender


def models(catalog: Catalog) -> tuple[OnlineRecommender, SasRec]:
    torch.manual_seed(0)
    config = RecommenderConfig(sizes=catalog.space.sizes, width=16, heads=2, item_scale=4.0)
    recommender = new_recommender(config, catalog).eval()
    teacher = SasRec(SasRecConfig(len(catalog), width=8, heads=1, layers=1)).eval()
    torch.nn.init.normal_(teacher.items.weight)
    return recommender, teacher


def two_groups(catalog: Catalog) -> Step:
    return pad([[3], [7]], catalog), pad([[3, 9, 4], [7, 8], [5, 5, 5]], catalog)


def every_logprob(recommender: OnlineRecommender, catalog: Catalog, state_W: Tensor) -> Tensor:
    """Log-probability of every catalog row, one by one."""
    loss = SidLoss(recommender, catalog.trie)
    packed_N = pack_sids(torch.from_numpy(catalog.sids.astype(np.int64)), catalog.space.sizes)
    return torch.stack([-loss(state_W.unsqueeze(0), packed.unsqueeze(0)) for packed in packed_N])


def test_the_loss_is_the_cross_entropy_over_all_items() -> None:
    catalog = toy_catalog()
    recommender, teacher = models(catalog)
    step = two_groups(catalog)
    states = encode_before(recommender, step)
    loss = TeacherLoss(teacher, recommender, catalog, positions=100)(step, states)
    expected = []
    for user, history in enumerate(([3, 9, 4], [7, 8], [5, 5, 5])):
        for at in range(1, len(history)):
            target_N = functional.softmax(teacher.score([history[:at]])[0], dim=0)
            logprob_N = every_logprob(recommender, catalog, states[1][user, at])
            expected.append(-(target_N * logprob_N).sum().item())
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_the_gradient_is_that_of_autograd() -> None:
    catalog = toy_catalog()
    recommender, teacher = models(catalog)
    step = (pad([[3, 9]], catalog),)
    loss = TeacherLoss(teacher, recommender, catalog, positions=100)
    torch.autograd.backward(loss(step, encode_before(recommender, step)))
    found = {name: weight.grad for name, weight in recommender.named_parameters()}
    recommender.zero_grad()
    state_W = encode_before(recommender, step)[0][0, 1]
    target_N = functional.softmax(teacher.score([[3]])[0], dim=0)
    torch.autograd.backward(-(target_N * every_logprob(recommender, catalog, state_W)).sum())
    for name, weight in recommender.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)
    assert all(weight.grad is None for weight in teacher.parameters())


def test_some_positions_are_drawn_and_a_step_of_first_items_has_none() -> None:
    catalog = toy_catalog()
    recommender, teacher = models(catalog)
    step = two_groups(catalog)
    states = encode_before(recommender, step)
    loss = TeacherLoss(teacher, recommender, catalog, positions=1)
    torch.manual_seed(0)
    assert len({round(loss(step, states).item(), 4) for _ in range(20)}) == 5
    assert loss(step[:1], states[:1]).item() == 0


def test_a_large_logit_is_no_infinity() -> None:
    catalog = toy_catalog()
    recommender, teacher = models(catalog)
    step = two_groups(catalog)
    states = [1e6 * rows for rows in encode_before(recommender, step)]
    assert torch.isfinite(TeacherLoss(teacher, recommender, catalog, positions=9)(step, states))


def test_averaged_weights_cover_the_steps_that_they_were_told() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    averages = AveragedWeights(model, 100)
    for _ in range(1000):
        torch.nn.init.ones_(model.weight)
        averages.update()
    with averages.installed():
        assert model.weight.item() == pytest.approx(1.0, abs=1e-3)
    for _ in range(100):
        torch.nn.init.constant_(model.weight, 2.0)
        averages.update()
    with averages.installed():
        assert model.weight.item() == pytest.approx(2 - np.exp(-1), abs=0.01)
    assert model.weight.item() == 2.0
    averages.install()
    assert model.weight.item() == pytest.approx(2 - np.exp(-1), abs=0.01)


def test_no_steps_are_the_weights_of_the_last_step() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    averages = AveragedWeights(model, 0)
    torch.nn.init.constant_(model.weight, 3.0)
    averages.update()
    with averages.installed():
        assert model.weight.item() == 3.0


def test_a_teacher_is_trained_once_and_only_for_its_data(tmp_path: Path) -> None:
    catalog = toy_catalog(num_items=20)
    split = circles(catalog)
    catalog = catalog.with_popularity(split.popularity)
    recipe = Recipe(
        recommender=ShapeRecipe(width=16, heads=2, layers=1),
        online=FitRecipe(epochs=4, batch_users=32, learning_rate=5e-3, average_steps=20),
        sasrec=SasRecRecipe(width=8, layers=1, heads=1),
        teacher=TeacherRecipe(share=0.5, positions=64),
    )
    settings = MemorySettings()
    histories = training_histories(catalog, split)
    memory = Memory.counted(histories, SimilarItems.none(len(catalog)), settings)
    folder = tmp_path / "teacher"

    def learn(data_digest: str) -> dict[str, float]:
        return learn_online(
            recipe, catalog, split, memory,
            data_digest=data_digest, learns=Learns.HELD_OUT, teacher_dir=folder,
        ).metrics  # fmt: skip

    metrics = learn("a")
    assert metrics["teacher_epoch"] in (2, 4)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert learn("a").keys() == metrics.keys()
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(InvalidInput, match=r"metrics\.json: data_sha256 'a', expected 'b'"):
        learn("b")
