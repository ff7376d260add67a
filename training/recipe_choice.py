"""The recipe for a data set, chosen from its size.

By number of items:

| items below | codebook sizes |
|---|---|
| 500 | 8, 8, 64 |
| 2,000 | 16, 16, 64 |
| 8,000 | 32, 32, 128 |
| 50,000 | 64, 64, 256 |
| 400,000 | 128, 128, 256 |
| any | 256, 256, 256 |

By number of users of three items or more, for the online recommender:

| users below | users of a step | epochs at most | evaluated every | width | epochs of `fast` |
|---|---|---|---|---|---|
| 2,000 | 64 | 200 | 10 epochs | 64 | 60 |
| 10,000 | 128 | 80 | 4 | 128 | 8 |
| 100,000 | 256 | 40 | 2 | 128 | 8 |
| any | 256 | 20 | 1 | 128 | 4 |

By number of events, for the reasoner:

| events below | passes over histories | tokens of the mixture | passes over rationales |
|---|---|---|---|
| 20,000 | 12 | 1,000,000 | 4 |
| 1,000,000 | 12 | 5,000,000 | 4 |
| 5,000,000 | 3 | 10,000,000 | 1 |
| any | 1 | 20,000,000 | 1 |

Amazon Beauty has 12,101 items, 22,363 users and 198,502 events: its row of each table is
`training/runs/nano.toml`, from which everything else comes. The other rows were not tuned.
"""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from models.errors import InvalidDataset, InvalidSettings
from training.reasoner_recipes import AlignRecipe
from training.recipe import Recipe, load_recipe
from training.split import Split

_RUNS = Path(__file__).parent / "runs"
_NO_END = 1 << 62
_FAST_EVALUATIONS = 4
MIN_ITEMS = 20  # an answer has ten items, and a history masks its own


class Config(StrEnum):
    """Manner of choosing a recipe, where no file is named."""

    AUTO = "auto"
    FAST = "fast"


class Size(NamedTuple):
    """Size of a data set."""

    items: int
    users: int  # of three items or more
    events: int

    @classmethod
    def of(cls, split: Split, num_items: int) -> "Size":
        """Count a held-out split: its users with a target have two more events each."""
        judged = sum(user.valid is not None for user in split.users)
        return cls(num_items, judged, split.num_train + 2 * judged)


class _Online(NamedTuple):
    below: int  # users
    batch_users: int
    epochs: int
    evaluate_every: int
    width: int
    fast_epochs: int


class _Reasoner(NamedTuple):
    below: int  # events
    sequence_epochs: int
    tokens: int
    rationale_epochs: int


_SIZES = (
    (500, (8, 8, 64)),
    (2_000, (16, 16, 64)),
    (8_000, (32, 32, 128)),
    (50_000, (64, 64, 256)),
    (400_000, (128, 128, 256)),
    (_NO_END, (256, 256, 256)),
)
_ONLINE = (
    _Online(2_000, 64, 200, 10, 64, 60),
    _Online(10_000, 128, 80, 4, 128, 8),
    _Online(100_000, 256, 40, 2, 128, 8),
    _Online(_NO_END, 256, 20, 1, 128, 4),
)
_REASONER = (
    _Reasoner(20_000, 12, 1_000_000, 4),
    _Reasoner(1_000_000, 12, 5_000_000, 4),
    _Reasoner(5_000_000, 3, 10_000_000, 1),
    _Reasoner(_NO_END, 1, 20_000_000, 1),
)


def choose_recipe(config: str, size: Size, *, seed: int) -> Recipe:
    """Return the recipe for `auto` or `fast`; any other text names a TOML file.

    Raises InvalidSettings for a file that is no recipe.
    """
    if config == Config.AUTO:
        return recipe_for(size, seed=seed)
    if config == Config.FAST:
        return fast_recipe_for(size, seed=seed)
    return load_recipe(Path(config), seed=seed)


def recipe_for(size: Size, *, seed: int = 0) -> Recipe:
    """Return the recipe of the tables above."""
    base = load_recipe(_RUNS / "nano.toml", seed=seed)
    online = next(row for row in _ONLINE if size.users < row.below)
    reasoner = next(row for row in _REASONER if size.events < row.below)
    return replace(
        base,
        quantize=replace(base.quantize, sizes=_codebook_sizes(size)),
        recommender=replace(base.recommender, width=online.width),
        online=replace(
            base.online,
            batch_users=online.batch_users,
            epochs=online.epochs,
            evaluate_every=online.evaluate_every,
        ),
        align=_align(base.align, reasoner),
        integrate=replace(base.integrate, tokens=reasoner.tokens),
        activate=replace(base.activate, rationale_epochs=reasoner.rationale_epochs),
    )


def fast_recipe_for(size: Size, *, seed: int = 0) -> Recipe:
    """Return a recipe for 100,000 events in ten minutes of one core, both rounds.

    It has the codebooks of `recipe_for`, the small models of `training/runs/fast.toml`, and fewer
    epochs.
    """
    base = load_recipe(_RUNS / "fast.toml", seed=seed)
    row = next(row for row in _ONLINE if size.users < row.below)
    return replace(
        base,
        quantize=replace(base.quantize, sizes=_codebook_sizes(size)),
        online=replace(
            base.online,
            batch_users=row.batch_users,
            epochs=row.fast_epochs,
            evaluate_every=row.fast_epochs // _FAST_EVALUATIONS,
        ),
    )


def check_items(recipe: Recipe, size: Size, data: Path) -> None:
    """Raise InvalidDataset for too few items to rank, or fewer than the first codebook has."""
    least = max(MIN_ITEMS, recipe.quantize.sizes[0])
    if size.items < least:
        raise InvalidDataset(
            f"{data}: {size.items:,} items, expected at least {least} for codebooks of "
            f"{', '.join(map(str, recipe.quantize.sizes))}"
        )


def check_seen(recipe: Recipe) -> None:
    """Raise InvalidSettings for a reasoner that would learn what judges its release."""
    if recipe.reasoner.unseen:
        raise InvalidSettings(
            f"[reasoner] unseen = {recipe.reasoner.unseen}, expected 0 in a release: it learns "
            "validation items, for experiments with training.remote"
        )


def _codebook_sizes(size: Size) -> tuple[int, ...]:
    return next(sizes for below, sizes in _SIZES if size.items < below)


def _align(base: AlignRecipe, row: _Reasoner) -> AlignRecipe:
    return replace(
        base,
        sequence_epochs=row.sequence_epochs,
        interleaved_epochs=min(base.interleaved_epochs, row.sequence_epochs),
    )
