"""Settings with which a recipe fits a GPU, advice for one that does not, and the table of docs.

    python -m training.memory_fit --write docs/gpu.md
    python -m training.memory_fit --config training/runs/qwen3.toml --base base/qwen3 --gpu 80

The first writes the table for known bases and cards. The second prints the peak of each stage of a
recipe. Knows formulas; loads no weights.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from models.errors import InvalidSettings, ThinkAheadError
from training.memory_estimate import GB, Memory, ModelShape, recipe_memory
from training.reasoner_recipes import HardwareRecipe
from training.recipe import Recipe, load_recipe

NUM_ROWS = 390  # fresh tokens of SIDs of 64, 64 and 256 codes, with markers
CARDS_GB = (24, 80, 141)
BASES = {
    "SmolLM2-135M": ModelShape(576, 30, 9, 3, 64, 1536, 49_152 + NUM_ROWS, True, False),
    "Qwen3-1.7B": ModelShape(2048, 28, 16, 8, 128, 6144, 152_055, True, True),
    "Qwen3-8B": ModelShape(4096, 36, 32, 8, 128, 12_288, 152_055, False, True),
}
_MICRO_TOKENS = (0, 8192, 4096, 2048)
_TOGETHER = (0, 8, 4, 2, 1)  # rollout_prompts
_QUESTIONS = (64, 32, 16, 8, 4)  # batch_users
_SHARE = 0.95  # of a card that may be planned
_RECIPE = Path("training/runs/qwen3.toml")
_BEGIN, _END = "<!-- memory: begin -->", "<!-- memory: end -->"


class Fit(NamedTuple):
    """Settings that fit, and their peak."""

    hardware: HardwareRecipe
    batch_users: int  # of bootstrapping
    stages: dict[str, Memory]

    @property
    def peak(self) -> float:
        return max(memory.total for memory in self.stages.values())

    @property
    def changes(self) -> str:
        """Return the keys to set in a recipe."""
        hardware = self.hardware
        return (
            f"[hardware] micro_tokens = {hardware.micro_tokens}, checkpointing = "
            f"{str(hardware.checkpointing).lower()}, rollout_prompts = {hardware.rollout_prompts}, "
            f"[bootstrap] batch_users = {self.batch_users}"
        )


def fit(shape: ModelShape, recipe: Recipe, card: float, *, num_rows: int = NUM_ROWS) -> Fit | None:
    """Return the quickest settings of a recipe that fit a card of so many bytes, if any do.

    Layers are computed twice only if it must be, as that takes a third more time. Only
    settings that do not fit are lowered: parts of a batch, prompts and questions sampled together.
    """
    room = _SHARE * card
    for hardware, batch_users in _settings(recipe):
        found = _try(shape, recipe, hardware, batch_users, num_rows)
        if found.peak <= room:
            return _widest(found, shape, recipe, room, num_rows)
    return None


def _try(
    shape: ModelShape, recipe: Recipe, hardware: HardwareRecipe, batch_users: int, num_rows: int
) -> Fit:
    """Return the peak of each stage with other settings."""
    bootstrap = replace(recipe.bootstrap, batch_users=batch_users)
    tried = replace(recipe, hardware=hardware, bootstrap=bootstrap)
    return Fit(hardware, batch_users, recipe_memory(shape, tried, num_rows=num_rows))


def _settings(recipe: Recipe) -> Iterator[tuple[HardwareRecipe, int]]:
    """Yield settings of the training, quickest first, with the smallest samplings."""
    for checkpointing in (False, True):
        for micro_tokens in _MICRO_TOKENS:
            yield (
                replace(
                    recipe.hardware,
                    checkpointing=checkpointing,
                    micro_tokens=micro_tokens,
                    rollout_prompts=1,
                ),
                _QUESTIONS[-1],
            )


def _widest(found: Fit, shape: ModelShape, recipe: Recipe, room: float, num_rows: int) -> Fit:
    """Sample as many prompts and questions together as fit."""

    def widen(wider: Iterable[tuple[HardwareRecipe, int]], found: Fit) -> Fit:
        tried = (_try(shape, recipe, *settings, num_rows) for settings in wider)
        return next((each for each in tried if each.peak <= room), found)

    narrow = found.batch_users
    found = widen(
        ((replace(found.hardware, rollout_prompts=num), narrow) for num in _TOGETHER), found
    )
    return widen([(found.hardware, num) for num in _QUESTIONS], found)


def check_fits(shape: ModelShape, recipe: Recipe, card: float, *, num_rows: int) -> None:
    """Raise InvalidSettings for a recipe that does not fit a card; it names settings that do."""
    stages = recipe_memory(shape, recipe, num_rows=num_rows)
    stage, memory = max(stages.items(), key=lambda named: named[1].total)
    if memory.total <= card:
        return
    smaller = fit(shape, recipe, card, num_rows=num_rows)
    advice = smaller.changes if smaller else "a smaller base, or a larger card: no setting fits"
    raise InvalidSettings(
        f"{stage} would take {memory.total / GB:.0f} GB of the card's {card / GB:.0f} GB, "
        f"expected {advice}"
    )


def stage_lines(stages: Mapping[str, Memory], measured: Mapping[str, float]) -> list[str]:
    """Return a Markdown table of the peak of each stage by its parts, and of the measured peak."""
    parts = [*Memory._fields, "peak", *(["measured"] if measured else [])]
    lines = [f"| stage, GB | {' | '.join(parts)} |", f"|---|{'---:|' * len(parts)}"]
    for stage, memory in stages.items():
        values = [*memory, memory.total, *([measured.get(stage, 0.0)] if measured else [])]
        lines.append(f"| {stage} | {' | '.join(f'{value / GB:.1f}' for value in values)} |")
    return lines


def table_lines(recipe: Recipe) -> list[str]:
    """Return the table of docs: the quickest settings of a recipe for each base and card."""
    columns = ("micro_tokens", "checkpointing", "rollout_prompts", "batch_users", "peak, GB")
    lines = [f"| base | card, GB | {' | '.join(columns)} |", f"|---|---:|{'---:|' * len(columns)}"]
    for name, shape in BASES.items():
        for card in CARDS_GB:
            found = fit(shape, recipe, card * GB)
            cells = [name, f"{card}", *(_cells(found, recipe) if found else ["does not fit"] * 5)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cells(found: Fit, recipe: Recipe) -> list[str]:
    hardware = found.hardware
    return [
        f"{hardware.micro_tokens:,}" if hardware.micro_tokens else "whole batch",
        "yes" if hardware.checkpointing else "no",
        f"{hardware.rollout_prompts or recipe.enhance.prompts}",
        f"{found.batch_users}",
        f"{found.peak / GB:.0f}",
    ]


def write_table(page: Path, lines: Sequence[str]) -> None:
    """Replace the table between the markers of a page. Raises InvalidSettings without them."""
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise InvalidSettings(f"{page}: expected {_BEGIN} and {_END}")
    table = "\n".join(lines)
    page.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        recipe = load_recipe(options.config)
        if options.write:
            write_table(options.write, table_lines(recipe))
            return 0
        shape = read_shape(options.base or Path(recipe.reasoner.base))
        stages = recipe_memory(shape, recipe, num_rows=NUM_ROWS)
        print(*stage_lines(stages, {}), sep="\n")
        if options.gpu:
            check_fits(shape, recipe, options.gpu * GB, num_rows=NUM_ROWS)
        return 0
    except ThinkAheadError as exc:
        print(f"training.memory_fit: {exc}", file=sys.stderr)
        return 78


def read_shape(base: Path) -> ModelShape:
    """Read the shape of a base: a name of BASES or a folder. Raises InvalidSettings."""
    if str(base) in BASES:
        return BASES[str(base)]
    if str(base) == "smollm2":
        return BASES["SmolLM2-135M"]
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError) as exc:
        raise InvalidSettings(f"{base}: no config of a model, nor one of {sorted(BASES)}") from exc
    return ModelShape.of(config, config.vocab_size + NUM_ROWS)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.memory_fit", description=__doc__)
    parser.add_argument("--config", type=Path, default=_RECIPE, help="recipe (TOML)")
    parser.add_argument("--base", type=Path, help="folder of the base (default: the recipe's)")
    parser.add_argument("--gpu", type=float, metavar="GB", help="refuse what does not fit it")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table of docs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
