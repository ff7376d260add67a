"""A memory of the toy world, and its evidence computed pair by pair."""

import math
from collections.abc import Sequence
from dataclasses import replace

from models.catalog.catalog import Catalog
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours
from models.online.memory.pair_counts import PairCounts
from tests.fakes.toy import toy_histories

SETTINGS = replace(MemorySettings(), recent=4, num_neighbours=6, scale=1.3, floor=1e-3)


def toy_counts(catalog: Catalog, settings: MemorySettings = SETTINGS) -> PairCounts:
    histories = toy_histories(catalog, num_users=len(catalog), seed=5)
    return PairCounts.of_histories(histories, len(catalog), settings)


def toy_neighbours(catalog: Catalog, settings: MemorySettings = SETTINGS) -> Neighbours:
    return Neighbours.of(toy_counts(catalog, settings), settings)


def shares(neighbours: Neighbours, history: Sequence[int]) -> list[dict[int, float]]:
    """By catalog row: the evidence that each item of the history gives it, the newest first."""
    found: list[dict[int, float]] = [{} for _ in range(len(neighbours))]
    newest = list(reversed(history))[: neighbours.settings.recent]
    for age, item in enumerate(newest):
        for place in range(neighbours.first[item], neighbours.first[item + 1]):
            given = found[int(neighbours.neighbour_P[place])]
            share = neighbours.settings.decay**age * float(neighbours.weight_P[place])
            given[item] = given.get(item, 0.0) + share
    return found


def bonuses(neighbours: Neighbours, history: Sequence[int]) -> list[float]:
    """By catalog row: what the memory adds to the log-probability."""
    settings = neighbours.settings
    return [
        settings.scale * math.log(1 + sum(given.values()) / settings.floor)
        for given in shares(neighbours, history)
    ]


def reasons(neighbours: Neighbours, history: Sequence[int], row: int) -> tuple[int, ...]:
    given = shares(neighbours, history)[row]
    return tuple(sorted(given, key=lambda item: -given[item])[:3])
