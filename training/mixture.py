"""The mixture of the four alignment tasks by weight of tokens (paper, Table 5)."""

from collections.abc import Callable, Iterator, Mapping

from models.errors import InvalidDataset
from training.batching import Row
from training.reasoner_recipes import Mixture
from training.tasks import Tasks


def mix(tasks: Tasks, mixture: Mixture, num_tokens: int) -> Iterator[Row]:
    """Yield rows until they hold `num_tokens` tokens, context included.

    The next row always comes from the task that is furthest behind its share. A task without rows
    left starts again, in a new order. Raises InvalidDataset for a task with a share but no rows.
    """
    sources: dict[str, tuple[float, Callable[[], Iterator[Row]]]] = {
        "persona": (mixture.persona, tasks.personas),
        "preference": (mixture.preference, tasks.preferences),
        "description": (mixture.description, tasks.descriptions),
        "general": (mixture.general, tasks.general),
    }
    weights = {name: weight for name, (weight, _) in sources.items() if weight > 0}
    endless = {name: _repeat(name, sources[name][1]) for name in weights}
    drawn = dict.fromkeys(weights, 0)
    while sum(drawn.values()) < num_tokens:
        name = _furthest_behind(drawn, weights)
        row = next(endless[name])
        drawn[name] += len(row.ids)
        yield row


def _furthest_behind(drawn: Mapping[str, int], weights: Mapping[str, float]) -> str:
    return min(weights, key=lambda name: drawn[name] / weights[name])


def _repeat(name: str, source: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    while True:
        is_empty = True
        for row in source():
            is_empty = False
            yield row
        if is_empty:
            raise InvalidDataset(f"task {name}: no training history gives a row")
