"""Tables of a recipe that shape the stages of perception."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PerceiveRecipe:
    """Settings of the stage `perceive`."""

    tokens: int = 5_000_000  # of all tasks, context included; a PerceptionMixture divides them
    learning_rate: float = 1e-3
    pack_tokens: int = 1024  # length of a packed sequence
    batch_tokens: int = 8192
    # Items that `bench understanding --seed 1` asks about first: their titles, brands and
    # descriptions are learnt by no task, so that captions of items without words are judged.
    held_out_items: int = 0


@dataclass(frozen=True)
class PerceptionMixture:
    """Percent of all tokens that each task gets; keys of training.perception.task_table.TASKS."""

    meaning: float = 2.0
    caption: float = 12.0
    description: float = 20.0
    lookup: float = 6.0
    story: float = 6.0
    relation: float = 4.0
    companion: float = 4.0
    preference: float = 12.0
    next_title: float = 3.0
    all_names: float = 3.0
    named_history: float = 3.0
    narrative: float = 3.0
    persona: float = 4.0
    interests: float = 3.0
    thought: float = 12.0
    general: float = 3.0


@dataclass(frozen=True)
class CorpusRecipe:
    """Settings of the stage `corpus`: questions to a local language model."""

    base: str = ""  # directory of a causal LM
    items: int = 2000  # the most bought ones
    pairs: int = 1000  # items that belong together
    histories: int = 1000
    tries: int = 2  # texts a question; the first sound one is kept
    max_tokens: int = 64  # of a text
    temperature: float = 0.7
    batch: int = 16  # questions in one pass
