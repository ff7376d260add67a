"""Peak memory of the reasoner's training on a GPU, by formula.

The terms are the tensors that autograd keeps of a decoder layer of Qwen3 or Llama in transformers,
and a test measures them. Knows shapes and recipes; loads no weights.
"""

# Widths of one layer: W = hidden, A = all query heads, K = all key heads, M = MLP

from dataclasses import dataclass
from typing import Any, NamedTuple

from training.language import LOGITS_AT_ONCE
from training.reasoner_recipes import HardwareRecipe
from training.recipe import Recipe

GB = 1e9
_FLOAT32, _BFLOAT16 = 4, 2
_TRAINED = 4 * _FLOAT32  # bytes of a weight, its gradient and two moments of Adam
_RESERVED = 1.0 * GB  # CUDA itself, its libraries, and what the allocator cannot use
_TOKENS_AN_ITEM = 5  # of a prompt: the codes of a SID, and its two markers
_PROMPT = 160  # tokens around the items of a prompt
_QUESTION = 900  # tokens of a question for a rationale, with the captions of its items


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal LM."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    mlp_width: int
    vocabulary: int  # with the itemic tokens
    ties: bool  # one matrix is embedding and head
    has_head_norms: bool  # Qwen3 normalises queries and keys, Llama does not

    @classmethod
    def of(cls, config: Any, vocabulary: int) -> "ModelShape":
        """Read a config of transformers."""
        return cls(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            config.intermediate_size,
            vocabulary,
            config.tie_word_embeddings,
            config.model_type == "qwen3",
        )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        return self.key_value_heads * self.head_width

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Return inputs and outputs of the linear layers of one decoder layer."""
        width, query, key, mlp = self.width, self.query_width, self.key_width, self.mlp_width
        attention = [(width, query), (width, key), (width, key), (query, width)]
        return [*attention, (width, mlp), (width, mlp), (mlp, width)]

    @property
    def num_weights(self) -> int:
        """Count the weights, without the norms, which are a thousandth."""
        tables = self.vocabulary * self.width * (1 if self.ties else 2)
        return tables + self.layers * sum(into * out for into, out in self.linears)

    def num_adapter_weights(self, rank: int) -> int:
        return self.layers * rank * sum(into + out for into, out in self.linears)


class Precision(NamedTuple):
    """Bytes of a number."""

    weights: int  # of the frozen base, or of all weights
    compute: int  # of matrix products; other than `weights` under autocast

    @classmethod
    def on_gpu(cls, tuning: str, dtype: str) -> "Precision":
        is_exact = tuning == "full" or dtype == "float32"
        return cls(_FLOAT32 if is_exact else _BFLOAT16, _BFLOAT16)


class Learnt(NamedTuple):
    """Trained parts of a model in one stage."""

    rank: int  # of adapters; 0 without
    num_rows: int  # token rows with weights of their own
    is_full: bool = False  # all weights are trained
    is_warmup: bool = False  # token rows alone


class Memory(NamedTuple):
    """Bytes at the peak of a stage."""

    weights: float
    trained: float  # trained weights with gradients, optimizer and reference
    activations: float
    logits: float
    cache: float = 0.0  # keys and values of rollouts

    @property
    def total(self) -> float:
        return sum(self) + _RESERVED


def layer_bytes(
    shape: ModelShape, learnt: Learnt, precision: Precision, *, mask_tokens: int
) -> float:
    """Return the bytes that autograd keeps of one token in one layer.

    mask_tokens: length of a packed sequence, which has a mask; 0 for a padded batch.
    """
    own, fast = precision
    width, query, key, mlp = shape.width, shape.query_width, shape.key_width, shape.mlp_width
    is_mixed = own != fast
    norms = _FLOAT32 * (2 * width + 2)
    if shape.has_head_norms:
        norms += _FLOAT32 * (query + key + shape.heads + shape.key_value_heads)
    attended = fast * (2 * query + 2 * (query if mask_tokens else key)) + _FLOAT32 * shape.heads
    mask = fast * mask_tokens
    gates = 3 * fast * mlp
    kept = norms + attended + mask + gates
    if learnt.is_warmup:
        return kept
    inputs = fast * (2 * width + mlp)
    if learnt.is_full:
        scaled = 2 * own * width + (fast * (query + key) if shape.has_head_norms else 0)
        casts = 3 * fast * width if is_mixed else 0  # one for each product with the same input
        return kept + inputs + scaled + casts
    return kept + inputs + 7 * fast * learnt.rank


def training_memory(
    shape: ModelShape,
    learnt: Learnt,
    precision: Precision,
    hardware: HardwareRecipe,
    *,
    batch_tokens: int,
    length: int,
    is_packed: bool,
) -> Memory:
    """Return the peak of one optimizer step.

    length: tokens of a sequence, of which a pass has at least one.
    """
    num = max(batch_tokens, length)
    if hardware.micro_tokens:
        num = min(num, max(hardware.micro_tokens, length))
    own, fast = precision
    layer = num * layer_bytes(shape, learnt, precision, mask_tokens=length if is_packed else 0)
    kept = shape.layers * layer
    if hardware.checkpointing:
        kept = shape.layers * num * own * shape.width + layer
    backward = num * fast * (2 * shape.mlp_width + 2 * shape.width)
    chunk = min(num, max(1, LOGITS_AT_ONCE // shape.vocabulary))
    logits = chunk * shape.vocabulary * (3 * _FLOAT32 + 2 * fast)
    ends = num * (3 * _FLOAT32 + 2 * fast) * shape.width
    return Memory(*_weights(shape, learnt, precision), kept + backward + ends, logits)


def _weights(shape: ModelShape, learnt: Learnt, precision: Precision) -> tuple[float, float]:
    """Return the bytes of the base, and of the trained weights."""
    own, fast = precision
    base = float(shape.num_weights * own)
    if learnt.is_full:
        casts = shape.num_weights * fast if own != fast else 0
        return base + casts, shape.num_weights * float(_TRAINED - own)
    rows = learnt.num_rows * shape.width * (1 if shape.ties else 2)
    adapter = shape.num_adapter_weights(learnt.rank)
    return base, _TRAINED * float(rows if learnt.is_warmup else rows + adapter) + adapter * fast


@dataclass(frozen=True)
class Sampling:
    """Sampling of thoughts and beams in one pass."""

    prompts: int
    prompt_tokens: int
    paths: int  # of a prompt
    path_tokens: int
    beams: int = 0  # after each path
    depth: int = 1  # codes of a SID


def sampling_memory(
    shape: ModelShape, learnt: Learnt, precision: Precision, asked: Sampling
) -> Memory:
    """Return the peak of sampling, with the keys and values of all paths and beams."""
    own, fast = precision
    branches = asked.paths * (asked.path_tokens + 2 + asked.beams * (asked.depth - 1))
    slots = asked.prompts * (asked.prompt_tokens + branches)
    layer = slots * 2 * shape.key_width * own
    rows = asked.prompts * asked.paths * max(asked.beams, 1)
    passed = max(rows, asked.prompts * asked.prompt_tokens)
    widths = 3 * fast * shape.mlp_width + 4 * own * shape.width + 3 * fast * shape.query_width
    # The mask of a tree has a line for each query head of a key head, and a place for each slot.
    lines = passed * shape.heads // shape.key_value_heads
    mask = lines * (slots / asked.prompts) * own
    scores = rows * shape.vocabulary * fast + LOGITS_AT_ONCE * 2 * _FLOAT32
    drawn = asked.prompts * asked.paths * shape.vocabulary * 3 * _FLOAT32
    return Memory(
        *_weights(shape, learnt, precision),
        passed * widths + mask,
        max(scores, drawn),
        shape.layers * layer + layer,
    )


def recipe_memory(shape: ModelShape, recipe: Recipe, *, num_rows: int) -> dict[str, Memory]:
    """Return the peak of each stage of a recipe on a GPU; `enhance` has two: sampling and learning.

    num_rows: tokens with trained rows.
    """
    reasoner, hardware = recipe.reasoner, recipe.hardware
    is_full = reasoner.tuning == "full"
    precision = Precision.on_gpu(reasoner.tuning, hardware.dtype)
    rank = 0 if is_full else reasoner.lora_rank
    learnt = Learnt(rank, num_rows, is_full)
    rows_only = Learnt(rank, num_rows, is_warmup=True)
    thought = recipe.thoughts.max_tokens
    prompt = _PROMPT + _TOKENS_AN_ITEM * reasoner.history
    row = prompt + thought

    def train(learnt: Learnt, batch_tokens: int, length: int, *, is_packed: bool) -> Memory:
        return training_memory(
            *(shape, learnt, precision, hardware),
            batch_tokens=batch_tokens,
            length=length,
            is_packed=is_packed,
        )

    def sample(prompts: int, tokens: int, paths: int, longest: int, beams: int = 0) -> Memory:
        asked = Sampling(prompts, tokens, paths, longest, beams, len(recipe.quantize.sizes))
        return sampling_memory(shape, learnt, precision, asked)

    warmup, integrate, asked = recipe.warmup, recipe.integrate, recipe.bootstrap
    select, activate, enhance = recipe.select, recipe.activate, recipe.enhance
    perceive, unify = recipe.perceive, recipe.unify
    together = min(hardware.rollout_prompts or enhance.prompts, enhance.prompts)
    made = {
        "align": lambda: train(learnt, recipe.align.batch_tokens, row, is_packed=False),
        "warmup": lambda: train(rows_only, warmup.batch_tokens, warmup.pack_tokens, is_packed=True),
        "integrate": lambda: train(
            learnt, integrate.batch_tokens, integrate.pack_tokens, is_packed=True
        ),
        "perceive": lambda: train(
            learnt, perceive.batch_tokens, perceive.pack_tokens, is_packed=True
        ),
        "bootstrap": lambda: sample(asked.batch_users, _QUESTION, asked.tries, asked.max_tokens),
        "select": lambda: sample(select.batch_users, prompt, select.tries, thought),
        "activate": lambda: train(learnt, activate.batch_tokens, row, is_packed=False),
        "unify": lambda: train(learnt, unify.batch_tokens, row, is_packed=False),
        "enhance": lambda: train(learnt, enhance.micro_rows * row, row, is_packed=False),
    }
    # `corpus` runs another model, whose size the recipe does not say.
    found = {stage: made[stage]() for stage in reasoner.stages if stage in made}
    if "enhance" in found:
        found["enhance: rollouts"] = sample(together, prompt, enhance.group, thought, enhance.beams)
        kept = found["enhance"]
        found["enhance"] = kept._replace(trained=kept.trained * (1 + _FLOAT32 / _TRAINED))
    return found
