"""Mixtures of tasks by weight of tokens, such as the paper's four of alignment (Table 5)."""

from collections.abc import Callable, Iterator, Mapping

from models.errors import InvalidDataset
from training.batching import Row
from training.reasoner_recipes import Mixture
from training.tasks import Tasks

Source = Callable[[], Iterator[Row]]  # one pass over the rows of a task


def mix(tasks: Tasks, mixture: Mixture, num_tokens: int) -> Iterator[Row]:
    """Yield rows of the paper's four alignment tasks, as `mix_sources` does."""
    sources = {
        "persona": tasks.personas,
        "preference": tasks.preferences,
        "description": tasks.descriptions,
        "general": tasks.general,
    }
    return mix_sources(sources, vars(mixture), num_tokens)


def mix_sources(
    sources: Mapping[str, Source], shares: Mapping[str, float], num_tokens: int
) -> Iterator[Row]:
    """Yield rows until they hold `num_tokens` tokens, context included.

    The next row always comes from the task that is furthest behind its share. A task without rows
    left starts again, in a new order. Raises InvalidDataset for a task with a share but no rows.
    """
    weights = {name: share for name, share in shares.items() if share > 0}
    endless = {name: _repeat(name, sources[name]) for name in weights}
    drawn = dict.fromkeys(weights, 0)
    while sum(drawn.values()) < num_tokens:
        name = _furthest_behind(drawn, weights)
        row = next(endless[name])
        drawn[name] += len(row.ids)
        yield row


def _furthest_behind(drawn: Mapping[str, int], weights: Mapping[str, float]) -> str:
    return min(weights, key=lambda name: drawn[name] / weights[name])


def _repeat(name: str, source: Source) -> Iterator[Row]:
    while True:
        is_empty = True
        for row in source():
            is_empty = False
            yield row
        if is_empty:
            raise InvalidDataset(f"task {name}: no training history gives a row")
