"""Sides of a comparison: generations, releases, arms and modes that could answer a user."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from models.errors import InvalidRecord
from models.store.manifest import Layer, Manifest
from service.explore.explore_bodies import Side
from service.recommend.experiments import Choice
from service.serving import Serving
from service.sources import Mode

OWN = "own"
_MODES = (
    (Mode.STRICT, "the prefixes of the night alone"),
    (Mode.UNION, "prefixes of both, without the night's bonus"),
    (Mode.FUSED, "the whole catalog, with the night's bonus"),
)


class Option(NamedTuple):
    """A side, and the settings that answer as it does."""

    side: Side
    choice: Choice


def own_side(serving: Serving, user_id: str) -> Option:
    """Return the user's side as it is served, without a line in the log of exposures."""
    choice = replace(serving.pipeline.assign(user_id), exposures=())
    return Option(Side(key=OWN, label="as served now", kind="this service"), choice)


def list_sides(serving: Serving, past: Sequence[Manifest]) -> list[Option]:
    """Return all sides other than the user's own."""
    return [
        *_modes(),
        *_generations(serving.manifest.current, past),
        *_releases(serving),
        *_arms(serving),
    ]


def find_side(key: str, serving: Serving, user_id: str, past: Sequence[Manifest]) -> Option:
    """Return the side with this key. Raises InvalidRecord."""
    if key == OWN:
        return own_side(serving, user_id)
    for option in list_sides(serving, past):
        if option.side.key == key:
            return option
    raise InvalidRecord(f"side {key[:40]!r} is not there, expected one of /explore/api/sides")


def _modes() -> Iterator[Option]:
    without = Side(key="no-night", label="without the night", kind="this service")
    yield Option(without, Choice(generation="none"))
    for mode, label in _MODES:
        side = Side(key=f"mode/{mode}", label=f"{mode}: {label}", kind="this service")
        yield Option(side, Choice(mode=mode))


def _generations(current: Manifest | None, past: Sequence[Manifest]) -> Iterator[Option]:
    if current is None:
        return
    if current.canary is not None:
        label = f"canary, {current.canary.percent:g}% of the users"
        side = Side(key="generation/canary", label=label, kind="night")
        yield Option(side, Choice(generation="canary"))
    layers = {layer.generation: layer for each in (*past, current) for layer in each.layers}
    live = {layer.generation for layer in current.layers}
    for number in sorted(layers, reverse=True):
        label = _name_of(layers[number]) + ("" if number in live else ", no longer live")
        side = Side(key=f"generation/{number}", label=label, kind="night")
        yield Option(side, Choice(generation=number))


def _name_of(layer: Layer) -> str:
    at = datetime.fromtimestamp(layer.generation / 1000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC, {layer.users} users"


def _releases(serving: Serving) -> Iterator[Option]:
    for at, (path, engine) in enumerate(serving.engines.arms.items()):
        side = Side(key=f"release/{at}", label=engine.label, kind="release")
        yield Option(side, Choice(release=path))


def _arms(serving: Serving) -> Iterator[Option]:
    for experiment in serving.settings.experiments:
        for arm in experiment.arms:
            key = f"arm/{experiment.name}/{arm.name}"
            changes = {name: getattr(arm, name) for name in arm.changes}
            side = Side(key=key, label=f"{experiment.name}: {arm.name}", kind="arm")
            yield Option(side, Choice(**changes))
