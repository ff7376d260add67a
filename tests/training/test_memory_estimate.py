"""The formula of peak memory against measurements of autograd, and the advice of the formula."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from models.errors import InvalidSettings
from tests import ROOT
from training.batching import TokenBatch
from training.language import token_losses
from training.memory_estimate import GB, Learnt, ModelShape, Precision, layer_bytes, recipe_memory
from training.memory_fit import (
    BASES,
    NUM_ROWS,
    check_fits,
    fit,
    main,
    read_shape,
    stage_lines,
    table_lines,
)
from training.reasoner_recipes import HardwareRecipe
from training.recipe import load_recipe
from training.token_rows import TokenRows

QWEN3 = load_recipe(ROOT / "training" / "runs" / "qwen3.toml")
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}
ROWS, LENGTH, RANK = 2, 96, 4


def kept_bytes(model: Any, batch: TokenBatch, *, is_mixed: bool) -> int:
    """Count the bytes that autograd keeps between the passes, but weights; each storage once."""
    sizes: dict[int, int] = {}
    alive = []
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        alive.append(value)  # so that no address is used twice
        return value

    watched = torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value)
    with watched, torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
        loss = token_losses(model, batch).mean()
    assert loss.requires_grad
    return sum(sizes.values())


def tiny(kind: str, num_layers: int, learnt: Learnt, dtype: torch.dtype) -> Any:
    """Build a model as a learner has it: adapters and rows over a frozen base, or all weights."""
    torch.manual_seed(0)
    if kind == "qwen3":
        model: Any = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=num_layers, **SIZES))
    else:
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=num_layers, **SIZES))
    model.to(dtype)
    if not learnt.is_full:
        peft: Any = pytest.importorskip("peft")
        config = peft.LoraConfig(r=RANK, target_modules="all-linear")
        model = peft.get_peft_model(model, config)
        for module in model.modules():
            module.cast_input_dtype_enabled = dtype == torch.float32
        TokenRows(model, torch.arange(250, 300))
    if learnt.is_warmup:
        for name, value in model.named_parameters():
            value.requires_grad_(name.endswith("rows"))
    return model.train()


@pytest.mark.parametrize(
    ("kind", "learnt", "dtype", "is_mixed", "is_packed"),
    [
        ("qwen3", Learnt(RANK, 50), torch.bfloat16, True, True),
        ("qwen3", Learnt(RANK, 50), torch.float32, False, False),
        ("qwen3", Learnt(RANK, 50, is_warmup=True), torch.bfloat16, True, True),
        ("qwen3", Learnt(0, 50, is_full=True), torch.float32, True, False),
        ("llama", Learnt(RANK, 50), torch.bfloat16, True, True),
    ],
)
def test_a_layer_keeps_what_the_formula_says(
    kind: str, learnt: Learnt, dtype: torch.dtype, is_mixed: bool, is_packed: bool
) -> None:
    """By the difference of two and three layers, on the CPU, which has autocast too."""
    ids = torch.randint(0, 300, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(LENGTH).repeat(ROWS, 1) % 48 if is_packed else None
    batch = TokenBatch(ids, ids.clone(), positions)
    models = [tiny(kind, num, learnt, dtype) for num in (2, 3)]
    few, more = (kept_bytes(model, batch, is_mixed=is_mixed) for model in models)
    config = models[0].config
    shape = ModelShape.of(config, config.vocab_size)
    precision = Precision(dtype.itemsize, 2 if is_mixed else 4)
    casts = 0
    if is_mixed and not learnt.is_warmup:  # autocast's copies of the trained weights
        linears = sum(into * out for into, out in shape.linears)
        one_layer = replace(shape, layers=1).num_adapter_weights(RANK)
        casts = precision.compute * (linears if learnt.is_full else one_layer)
    expected = layer_bytes(shape, learnt, precision, mask_tokens=LENGTH if is_packed else 0)
    assert more - few - casts == pytest.approx(ROWS * LENGTH * expected, rel=0.15)


def test_the_weights_of_a_shape_are_those_of_the_model() -> None:
    model = tiny("qwen3", 3, Learnt(0, 0, is_full=True), torch.float32)
    shape = ModelShape.of(model.config, model.config.vocab_size)
    assert shape.num_weights == pytest.approx(model.num_parameters(), rel=0.01)
    adapted = tiny("qwen3", 3, Learnt(RANK, 50), torch.float32)
    lora = sum(w.numel() for name, w in adapted.named_parameters() if "lora_" in name)
    assert shape.num_adapter_weights(RANK) == lora
    sizes = {name: round(base.num_weights / 1e9, 2) for name, base in BASES.items()}
    assert sizes == {"SmolLM2-135M": 0.13, "Qwen3-1.7B": 1.72, "Qwen3-8B": 8.19}


def test_what_saves_memory_lowers_the_peak_of_every_stage() -> None:
    small = HardwareRecipe(micro_tokens=2048, checkpointing=True, rollout_prompts=1)
    shape = BASES["Qwen3-8B"]
    plain = recipe_memory(shape, replace(QWEN3, hardware=HardwareRecipe()), num_rows=NUM_ROWS)
    less = recipe_memory(shape, replace(QWEN3, hardware=small), num_rows=NUM_ROWS)
    assert set(plain) == {*QWEN3.reasoner.stages, "enhance: rollouts"}
    for stage in set(plain) - {"bootstrap"}:
        assert less[stage].total < plain[stage].total
    assert plain["integrate"].total > 80 * GB
    assert less["integrate"].total < 24 * GB


def test_a_recipe_that_does_not_fit_is_refused_with_one_that_does() -> None:
    shape, card = BASES["Qwen3-8B"], 80 * GB
    too_large = replace(QWEN3, hardware=HardwareRecipe())
    with pytest.raises(InvalidSettings, match=r"GB of the card's 80 GB, expected \[hardware\]"):
        check_fits(shape, too_large, card, num_rows=NUM_ROWS)
    found = fit(shape, too_large, card)
    assert found is not None
    bootstrap = replace(QWEN3.bootstrap, batch_users=found.batch_users)
    fitting = replace(QWEN3, hardware=found.hardware, bootstrap=bootstrap)
    check_fits(shape, fitting, card, num_rows=NUM_ROWS)
    assert fit(shape, too_large, 12 * GB) is None
    with pytest.raises(InvalidSettings, match="no setting fits"):
        check_fits(shape, too_large, 12 * GB, num_rows=NUM_ROWS)


def test_the_page_has_the_table_of_the_formula(tmp_path: Path) -> None:
    page = ROOT / "docs" / "gpu.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text())
    assert main(["--write", str(copy)]) == 0
    assert copy.read_text() == page.read_text()
    assert all(line in page.read_text() for line in table_lines(QWEN3))
    copy.write_text("no table here")
    assert main(["--write", str(copy)]) == 78


def test_the_command_prints_the_peaks_of_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Qwen3Config(num_hidden_layers=2, **SIZES)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert read_shape(tmp_path) == ModelShape.of(config, 300 + NUM_ROWS)
    recipe = ROOT / "training" / "runs" / "qwen3.toml"
    assert main(["--config", str(recipe), "--base", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    stages = recipe_memory(read_shape(tmp_path), QWEN3, num_rows=NUM_ROWS)
    assert printed == stage_lines(stages, {})
    assert main(["--config", str(recipe), "--base", "Qwen3-8B", "--gpu", "16"]) == 78
    assert "GB of the card's 16 GB" in capsys.readouterr().err
    assert main(["--config", str(recipe), "--base", str(tmp_path / "none")]) == 78
