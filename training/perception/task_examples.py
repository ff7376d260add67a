"""Examples of the perception tasks: a row of each as text, and their Markdown table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from models.catalog.dataset import load_dataset
from models.release.release import Release
from training.mixture import Source
from training.perception.perception_tasks import PerceptionTasks
from training.perception.task_table import TASKS, TaskEntry, task_sources
from training.rationale_writers import Thinker
from training.reasoner_recipes import ThoughtRecipe
from training.split import split_dataset, training_histories
from training.tasks import Tasks

_MOST_CHARACTERS = 220  # of a text in the table


class Example(NamedTuple):
    """One row of a task as text."""

    task: TaskEntry
    context: str  # without a loss
    learnt: str


def release_examples(directory: Path, data: Path, *, seed: int) -> list[Example]:
    """Return an example of each task, from a release's catalog and the data's histories."""
    release, dataset = Release.load(directory), load_dataset(data)
    catalog = release.catalog.described(dataset.items)
    histories = training_histories(catalog, split_dataset(dataset, release.manifest.learnt))
    tokenizer: Any = AutoTokenizer.from_pretrained(release.reasoner_dir, local_files_only=True)
    tasks = Tasks(catalog, histories, tokenizer, seed)
    perception = PerceptionTasks(catalog, histories, tokenizer, seed)
    thinker = Thinker(ThoughtRecipe(), seed=seed)
    return first_examples(task_sources(tasks, perception, thinker), tokenizer)


def first_examples(sources: Mapping[str, Source], tokenizer: Any) -> list[Example]:
    """Return the first row of each task."""
    found = []
    for task in TASKS:
        row = next(sources[task.name]())
        parts = row.ids[: row.num_context], row.ids[row.num_context :]
        found.append(Example(task, *(str(tokenizer.decode(part)) for part in parts)))
    return found


def example_table(examples: Sequence[Example]) -> str:
    """Render examples as a Markdown table.

    Of a long context the end is shown, of a long text to learn the beginning.
    """
    lines = ["| task | level | of the eight | given | learnt |", "|---|---|---|---|---|"]
    for task, context, learnt in examples:
        number = "" if task.number is None else f"{task.number}"
        cells = task.name, task.level, number, _cell(context, is_end=True), _cell(learnt)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(text: str, *, is_end: bool = False) -> str:
    line = " ".join(text.replace("|", "¦").split())
    if len(line) > _MOST_CHARACTERS:
        cut = line[-_MOST_CHARACTERS:] if is_end else line[:_MOST_CHARACTERS]
        line = f"... {cut}" if is_end else f"{cut} ..."
    return f"`{line}`" if line else ""
