"""Ways to save memory in training, each against the plain way."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.catalog.catalog import Catalog
from models.reasoner.transformers_engine import Sampling, TransformersReasoner, draw_from_all
from tests.fakes.tiny_base import NANO, lora_learner, write_base
from tests.fakes.toy import toy_catalog, toy_histories
from training import language
from training.activation import activate
from training.align import align, integrate, language_recipe, warm_up
from training.batching import TokenBatch, pack_rows
from training.checkpoint import Checkpoint, Progress
from training.enhance import Reference, enhance, token_logprobs
from training.language import LanguageRecipe, add_gradients, language_loss, train_language
from training.learner import Learner, new_learner, plain_model, token_rows_only
from training.reasoner_recipes import (
    ActivateRecipe,
    AlignRecipe,
    EnhanceRecipe,
    HardwareRecipe,
    IntegrateRecipe,
    Mixture,
    ReasonerRecipe,
    WarmupRecipe,
)
from training.tasks import Tasks
from training.token_rows import token_modules

BFLOAT16 = HardwareRecipe(dtype="bfloat16")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


@pytest.fixture(scope="module")
def histories(catalog: Catalog) -> list[list[int]]:
    return [rows for rows in toy_histories(catalog, num_users=30) if len(rows) > 1]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, catalog: Catalog, tmp_path_factory: Any) -> Path:
    directory: Path = tmp_path_factory.mktemp("base")
    return write_base(catalog, directory, ties=request.param)


@pytest.fixture
def learner(base: Path, catalog: Catalog) -> Learner:
    return lora_learner(base, catalog)


@pytest.fixture
def batch(learner: Learner, catalog: Catalog, histories: list[list[int]]) -> TokenBatch:
    """Four packed sequences of personas and answers."""
    tasks = Tasks(catalog, histories, learner.tokenizer, seed=0)
    rows = [*list(tasks.personas())[:8], *list(tasks.preferences())[:8]]
    return pack_rows(rows, length=512, batch_tokens=4 * 512)[0]


def gradients(model: Any, batch: TokenBatch, *, micro_tokens: int = 0) -> dict[str, torch.Tensor]:
    model.zero_grad()
    add_gradients(model, batch, micro_tokens=micro_tokens)
    return {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def test_loss_and_gradients_by_parts_are_those_of_the_whole(
    learner: Learner, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of 7 tokens at a time, one sequence at a time, each layer computed twice."""
    model = learner.model.train()
    expected, loss = gradients(model, batch), language_loss(model, batch)
    assert {name.rpartition(".")[2] for name in expected} == {"weight", "rows"}

    def check(*, micro_tokens: int = 0) -> None:
        found = gradients(model, batch, micro_tokens=micro_tokens)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    check(micro_tokens=512)
    monkeypatch.setattr(language, "LOGITS_AT_ONCE", 7 * 500)
    torch.testing.assert_close(language_loss(model, batch), loss)
    check()
    plain_model(model).gradient_checkpointing_enable({"use_reentrant": False})
    num_saved = [num_saved_numbers(model, batch)]
    check(micro_tokens=1024)
    plain_model(model).gradient_checkpointing_disable()
    num_saved.append(num_saved_numbers(model, batch))
    assert num_saved[0] < num_saved[1] / 3


def num_saved_numbers(model: Any, batch: TokenBatch) -> int:
    """Count the numbers that autograd keeps between the passes, each storage once."""
    sizes: dict[int, int] = {}
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        kept = language_loss(model, batch)
    assert kept.requires_grad
    return sum(sizes.values())


def test_token_rows_learn_what_a_masked_gradient_teaches(
    base: Path, catalog: Catalog, batch: TokenBatch
) -> None:
    recipe = ReasonerRecipe(base=str(base))
    whole, own = (new_learner(recipe, NANO, catalog.space, [], seed=0) for _ in range(2))
    schedule = LanguageRecipe(1e-2, warmup_steps=2, weight_decay=0.0)
    learn_by_mask(whole, lambda: train_language(whole.model, [batch] * 4, schedule, stage="t"))
    with token_rows_only(own):
        weights = sum(w.numel() for w in own.model.parameters() if w.requires_grad)
        train_language(own.model, [batch] * 4, schedule, stage="t")
    tables = token_modules(own.model)
    assert weights == len(tables) * len(own.row_ids) * NANO.width
    assert all(value.requires_grad for value in own.model.parameters())
    expected, found = whole.model.state_dict(), own.model.state_dict()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def learn_by_mask(learner: Learner, train: Callable[[], object]) -> None:
    """Train the rows as parts of whole matrices, with zero gradients for all other rows."""
    learner.model.requires_grad_(False)
    for module in token_modules(learner.model):
        kept = torch.zeros(len(module.weight), 1)
        kept[learner.row_ids] = 1
        module.weight.requires_grad_(True)
        module.weight.register_hook(lambda grad, kept=kept: grad * kept)
    train()


def test_the_reference_is_the_model_of_the_first_step(
    learner: Learner, batch: TokenBatch, catalog: Catalog, histories: list[list[int]]
) -> None:
    weights = {n: w for n, w in learner.model.named_parameters() if w.requires_grad}
    reference, copied = Reference(weights), copy.deepcopy(learner.model)
    rows = list(Tasks(catalog, histories, learner.tokenizer, seed=0).rationales())[:6]
    train_language(learner.model, [batch] * 3, language_recipe(learner, 1e-2), stage="t")
    after, _ = token_logprobs(learner.model, rows)
    with torch.no_grad(), reference.in_place():
        found, _ = token_logprobs(learner.model, rows)
    expected, _ = token_logprobs(uncoupled(copied, learner), rows)
    assert torch.equal(found, expected.detach())
    assert (after - found).abs().max() > 0.01
    assert torch.equal(token_logprobs(learner.model, rows)[0], after)


def uncoupled(copied: Any, learner: Learner) -> Any:
    """Return a copied model with its rows in its matrices: copied hooks hold the old rows."""
    for module, original in zip(token_modules(copied), token_modules(learner.model), strict=True):
        module._forward_hooks.clear()
        rows: Any = module.rows
        assert rows.shape == original.rows.shape
        with torch.no_grad():
            module.weight[learner.row_ids] = rows.to(module.weight.dtype)
    copied.get_output_embeddings()._forward_hooks.clear()
    return copied


def test_a_frozen_base_in_bfloat16_learns_in_float32_beside_it(
    base: Path, catalog: Catalog, histories: list[list[int]]
) -> None:
    """Its losses are close to a float32 base's; thoughts are sampled over it too."""
    exact, learner = lora_learner(base, catalog), lora_learner(base, catalog, BFLOAT16)
    dtypes = {w.dtype: w.requires_grad for w in learner.model.parameters()}
    assert dtypes == {torch.bfloat16: False, torch.float32: True}
    rows = list(Tasks(catalog, histories, learner.tokenizer, seed=0).preferences())[:24]
    batches = pack_rows(rows, length=640, batch_tokens=640)
    losses = [
        train_language(one.model, batches, language_recipe(one, 1e-2), stage="t")["loss"]
        for one in (exact, learner)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    recipe = EnhanceRecipe(group=2, beams=2, prompts=2, max_steps=1)
    enhance(learner, catalog, histories, recipe, 8, seed=0)


def test_a_checkpoint_holds_no_more_than_what_is_trained(learner: Learner, tmp_path: Path) -> None:
    weights = {n: w for n, w in learner.model.named_parameters() if w.requires_grad}
    optimizer = torch.optim.AdamW(weights.values())
    for value in weights.values():
        value.grad = torch.ones_like(value)
    optimizer.step()
    Checkpoint(tmp_path / "one", of="t").save(weights, optimizer, Progress())
    held = sum(value.numel() for value in load_file(tmp_path / "one").values())
    assert held == 3 * sum(value.numel() for value in weights.values()) + len(weights)


def test_an_adapter_beside_its_base_is_the_merged_model(
    base: Path, catalog: Catalog, tmp_path: Path
) -> None:
    """Read by peft; with only the names that vLLM's loader knows."""
    peft: Any = pytest.importorskip("peft")
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lora_learner(base, catalog).export(tmp_path / "merged")
    lora_learner(base, catalog).export_apart(tmp_path / "base", tmp_path / "adapter")
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in names)
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in names
    load = AutoModelForCausalLM.from_pretrained
    plain: Any = load(tmp_path / "base", dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "base").encode("<item_a_5>")])
    expected = load(tmp_path / "merged", dtype=torch.float32)(input_ids=ids).logits
    torch.testing.assert_close(adapted(input_ids=ids).logits, expected, rtol=0.05, atol=0.05)


def test_a_draw_from_all_tokens_is_that_of_a_sorted_vocabulary() -> None:
    made = torch.Generator().manual_seed(0)
    for sharpness in (0.01, 1.0, 4.0, 20.0):
        prob = (sharpness * torch.randn(200, 2000, generator=made)).softmax(dim=-1)
        uniform = torch.rand(200, generator=made)
        best, order = prob.sort(dim=-1, descending=True)
        at = (best.double().cumsum(dim=-1) <= uniform.double().unsqueeze(1)).sum(dim=-1)
        expected = order.gather(1, at.clamp(max=1999).unsqueeze(1)).squeeze(1)
        assert (draw_from_all(prob, uniform) == expected).float().mean() > 0.98  # float32 sums


def test_rollouts_of_some_prompts_at_a_time_are_those_of_all(
    base: Path, catalog: Catalog, histories: list[list[int]]
) -> None:
    recipe = EnhanceRecipe(group=3, beams=4, prompts=5, max_steps=1, learning_rate=1e-3)
    some = HardwareRecipe(rollout_prompts=2, micro_tokens=200, checkpointing=True)
    made = []
    for hardware in (HardwareRecipe(), some):
        learner = lora_learner(base, catalog, hardware)
        report = enhance(learner, catalog, histories, recipe, 12, seed=0)
        made.append((report | {"seconds": 0}, learner.model.state_dict()))
    assert made[0][0] == made[1][0]
    torch.testing.assert_close(made[0][1], made[1][1], rtol=1e-3, atol=1e-5)


def test_the_stages_of_a_nano_give_the_figures_that_they_gave_before(catalog: Catalog) -> None:
    """Losses of the same seed, from before rows, parts and chunks came into the training."""
    from models.reasoner.prompts import caption

    histories = [list(range(60)), *toy_histories(catalog, num_users=30)]
    texts = [caption(catalog, row) for row in range(len(catalog))]
    learner = new_learner(ReasonerRecipe(), NANO, catalog.space, texts, seed=0)
    tasks = Tasks(catalog, histories, learner.tokenizer, seed=0)
    lengths = {"pack_tokens": 640, "batch_tokens": 2560}
    made = [
        align(learner.model, tasks, AlignRecipe(2, interleaved_epochs=1)),
        warm_up(learner, tasks, WarmupRecipe(learning_rate=2e-2, pack_tokens=640)),
        integrate(learner, tasks, IntegrateRecipe(30_000, 3e-3, **lengths), Mixture()),
        activate(learner.model, tasks, ActivateRecipe(rationale_epochs=3)),
    ]
    found = [one["loss"] for one in made]
    assert found == pytest.approx([6.0857, 6.0745, 5.9953, 5.9249], abs=2e-3)


def test_thoughts_of_a_learner_are_those_of_the_exported_model(
    base: Path, catalog: Catalog
) -> None:
    """Rows beside the matrices answer as rows inside them, on the same engine."""
    learner = lora_learner(base, catalog)
    sampling = Sampling(max_tokens=10)
    prompts = ["<think>", "<item_a_5> and <item_b_1>"]

    def think(model: Any) -> list[list[int]]:
        reasoner = TransformersReasoner(model, learner.tokenizer, catalog.space, sampling)
        return reasoner.think(prompts, paths=3, seeds=[1, 2]).sampled

    found = think(plain_model(learner.model))
    assert learner.rows is not None
    learner.rows.settle()
    learner.rows = None
    assert think(learner.model.merge_and_unload()) == found
