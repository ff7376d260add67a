"""Experiments: which users are in which arm, and what an arm changes about their answers.

A layer divides the users once, by a hash of layer and user id; the experiments of a layer have
shares of it that do not overlap, so a user is in one of them at most. Layers are independent of
each other. Pure: no store, no clock, no counting.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.store.manifest import Layer, Manifest
from models.store.records import MAX_PATHS, MAX_PREFIXES, PrefixRecord
from service.sources import Mode

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]  # a label of metrics too
Share = Annotated[float, Field(gt=0, le=1)]
_ROUNDING = 1e-9  # three shares of a third are a whole


class Arm(BaseModel):
    """What is left out stays as the service is configured.

    generation: whose records are read: a number (then those of older live layers), `live` (never
    the canary's), `canary`, or `none` (the online model alone). paths, prefixes: caps on T and on
    all of T x m: thoughts of lower numbers, and the best prefixes of those, are kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1
    mode: Mode | None = None
    generation: Annotated[int, Field(ge=1)] | Literal["live", "canary", "none"] | None = None
    release: Path | None = None
    paths: Annotated[int, Field(ge=1, le=MAX_PATHS)] | None = None
    prefixes: Annotated[int, Field(ge=1, le=MAX_PREFIXES)] | None = None

    @property
    def changes(self) -> frozenset[str]:
        """Which knobs it turns."""
        return frozenset(name for name in _KNOBS if getattr(self, name) is not None)


_KNOBS = ("mode", "generation", "release", "paths", "prefixes")


class Experiment(BaseModel):
    """share: of the layer's users. start: where the share begins, 0 to 1; None: behind the
    experiment before it in the layer, which a change of that one would move. Another salt deals the
    arms anew, as a new experiment over the same users should."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    layer: Name = "default"
    salt: str | None = None  # the name, if None
    share: Share
    start: Annotated[float, Field(ge=0, lt=1)] | None = None
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, max_length=20)]

    @property
    def changes(self) -> frozenset[str]:
        return frozenset().union(*(arm.changes for arm in self.arms))

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        if repeated := _repeated(arm.name for arm in self.arms):
            raise ValueError(f"experiment {self.name}: two arms are called {repeated}")
        return self


class Exposure(NamedTuple):
    """A user in an arm. share: the arm's part of the experiment, which the counts should show."""

    experiment: str
    arm: str
    share: float


@dataclass(frozen=True)
class Choice:
    """All that the arms of one user choose together; None: as configured.

    mode_experiment: the one that chose the mode, if any.
    """

    exposures: tuple[Exposure, ...] = ()
    mode: Mode | None = None
    generation: int | Literal["live", "canary", "none"] | None = None
    release: Path | None = None
    paths: int | None = None
    prefixes: int | None = None
    mode_experiment: str | None = None

    def under(self, asked: Mode | None) -> "Choice":
        """The same for a request that names its mode: it gets that, and counts for no experiment
        on modes."""
        if asked is None or self.mode_experiment is None:
            return self
        others = tuple(each for each in self.exposures if each.experiment != self.mode_experiment)
        return replace(self, exposures=others, mode=None, mode_experiment=None)

    def layers(self, manifest: Manifest | None, user_id: str) -> tuple[int, ...]:
        """Generations to look for the user's record in, newest first; all of one manifest."""
        if manifest is None or self.generation == "none":
            return ()
        if self.generation is None:
            return _numbers(manifest.layers_for(user_id))
        if self.generation == "canary" and manifest.canary is not None:
            return _numbers(manifest.canary.layers)
        live = _numbers(manifest.layers)
        if isinstance(self.generation, str):
            return live
        return (self.generation, *(number for number in live if number < self.generation))

    @property
    def caps_records(self) -> bool:
        return self.paths is not None or self.prefixes is not None or self.generation == "none"

    def cap(self, record: PrefixRecord | None) -> PrefixRecord | None:
        """The record with what the caps leave of it; also of a copy from before the experiment."""
        if record is None or self.generation == "none":
            return None
        paths = MAX_PATHS if self.paths is None else self.paths
        kept = tuple(prefix for prefix in record.prefixes if prefix.path < paths)
        return replace(record, prefixes=kept[: self.prefixes])


NO_CHOICE = Choice()


class Experiments:
    """Raises ValueError for experiments that cannot run beside each other."""

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        _check_together(experiments)
        self._layers = [
            (_Buckets("layer", name), tuple(_segments(name, of_layer)))
            for name, of_layer in _by_layer(experiments).items()
        ]
        self._choices: dict[tuple[tuple[str, str], ...], Choice] = {}

    def choose(self, user_id: str | None) -> Choice:
        """Always the same for a user, as long as layer, share, salt and arms stay."""
        if not self._layers or user_id is None:
            return NO_CHOICE
        text = user_id.encode("utf-8", "surrogatepass")
        drawn = [
            (segment, segment.draw(text))
            for buckets, segments in self._layers
            for segment in _at(buckets.place(text), segments)
        ]
        key = tuple((segment.experiment.name, arm.name) for segment, arm in drawn)
        if key not in self._choices:
            self._choices[key] = _merge(drawn)
        return self._choices[key]


class _Buckets:
    """Users to places in [0, 1), uniformly, each purpose and salt independent of the others."""

    def __init__(self, purpose: str, salt: str) -> None:
        key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
        self._hash = hashlib.blake2b(key=key, digest_size=8, person=purpose.encode())

    def place(self, text: bytes) -> float:
        hashed = self._hash.copy()
        hashed.update(text)
        return (int.from_bytes(hashed.digest(), "big") >> 11) / (1 << 53)


class _Segment:
    """An experiment with its part of a layer, [start, end)."""

    def __init__(self, experiment: Experiment, start: float) -> None:
        self.experiment = experiment
        self.start, self.end = start, start + experiment.share
        self._buckets = _Buckets("arm", experiment.salt or experiment.name)
        total = sum(arm.weight for arm in experiment.arms)
        self._shares = [arm.weight / total for arm in experiment.arms]

    def draw(self, text: bytes) -> Arm:
        place = self._buckets.place(text)
        for arm, share in zip(self.experiment.arms, self._shares, strict=True):
            place -= share
            if place < 0:
                return arm
        return self.experiment.arms[-1]

    def exposure(self, arm: Arm) -> Exposure:
        share = self._shares[self.experiment.arms.index(arm)]
        return Exposure(self.experiment.name, arm.name, round(share, 6))


def _at(place: float, segments: Iterable[_Segment]) -> Iterator[_Segment]:
    """The segment that the place is in, or none."""
    return (segment for segment in segments if segment.start <= place < segment.end)


def _merge(drawn: Sequence[tuple[_Segment, Arm]]) -> Choice:
    knobs = {name: getattr(arm, name) for _, arm in drawn for name in arm.changes}
    on_modes = [
        segment.experiment.name for segment, _ in drawn if "mode" in segment.experiment.changes
    ]
    return Choice(
        exposures=tuple(segment.exposure(arm) for segment, arm in drawn),
        mode_experiment=on_modes[0] if on_modes else None,
        **knobs,
    )


def _check_together(experiments: Sequence[Experiment]) -> None:
    if repeated := _repeated(each.name for each in experiments):
        raise ValueError(f"two experiments are called {repeated}")
    owners: dict[str, Experiment] = {}
    for experiment in experiments:
        for knob in sorted(experiment.changes):
            other = owners.setdefault(knob, experiment)
            if other.layer != experiment.layer:
                raise ValueError(
                    f"{other.name} and {experiment.name} both choose {knob} and are of different "
                    "layers: a user could be in both; put them into one layer"
                )


def _by_layer(experiments: Sequence[Experiment]) -> dict[str, list[Experiment]]:
    layers = defaultdict(list)
    for experiment in experiments:
        layers[experiment.layer].append(experiment)
    return layers


def _segments(layer: str, experiments: Sequence[Experiment]) -> Iterator[_Segment]:
    start, segments = 0.0, []
    for experiment in experiments:
        start = start if experiment.start is None else experiment.start
        segments.append(_Segment(experiment, start))
        start += experiment.share
    segments.sort(key=lambda segment: segment.start)
    for before, after in pairwise(segments):
        if before.end > after.start + _ROUNDING:
            names = f"{before.experiment.name} and {after.experiment.name}"
            raise ValueError(f"layer {layer}: the shares of {names} overlap")
    if segments[-1].end > 1 + _ROUNDING:
        raise ValueError(
            f"layer {layer}: the shares go to {segments[-1].end:g}, expected at most 1"
        )
    return iter(segments)


def _numbers(layers: Iterable[Layer]) -> tuple[int, ...]:
    return tuple(layer.generation for layer in layers)


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
