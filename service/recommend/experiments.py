"""Choose how a user is served: held at a lower rung, or by the arms of experiments.

A layer divides the users once, by a hash of layer and user id. The experiments of one layer have
shares that do not overlap, so a user is in at most one of them. Layers are independent of each
other. A user held at a lower rung is in no experiment. Pure: no store, no clock, no counting.
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
from service.sources import Mode, Source

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]  # a label of metrics too
Share = Annotated[float, Field(gt=0, le=1)]
HELD_RUNGS = (Source.ONLINE, Source.GLOBAL, Source.POPULAR)
_ROUNDING = 1e-9  # so that three shares of 1/3 fill a layer
_HOLDBACK_SALT = b"rungs/1"  # another salt would hold other users; experiments have their own
_SPAN = float(1 << 64)


class Arm(BaseModel):
    """One arm of an experiment. A setting of None stays as the service is configured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1  # relative to the other arms
    mode: Mode | None = None
    # Generation of the records to read: a number (then the older live layers), `live` (never the
    # canary's layers), `canary`, or `none` (no record, the online model alone).
    generation: Annotated[int, Field(ge=1)] | Literal["live", "canary", "none"] | None = None
    release: Path | None = None
    # Cap on T: paths of a lower number are kept.
    paths: Annotated[int, Field(ge=1, le=MAX_PATHS)] | None = None
    # Cap on all prefixes of a record (T x m): the best ones of the kept paths are kept.
    prefixes: Annotated[int, Field(ge=1, le=MAX_PREFIXES)] | None = None

    @property
    def changes(self) -> frozenset[str]:
        """Return the names of the settings that this arm changes."""
        return frozenset(name for name in _KNOBS if getattr(self, name) is not None)


_KNOBS = ("mode", "generation", "release", "paths", "prefixes")


class Experiment(BaseModel):
    """An experiment: a share of one layer's users, divided among arms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    layer: Name = "default"
    # Another salt divides the same users among the arms independently. None: the name.
    salt: str | None = None
    share: Share  # of the layer's users
    # Position in the layer where the share begins, 0 to 1. None: behind the experiment before it
    # in the layer, so that a changed share of that experiment moves this one.
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
    """A user's membership in one arm."""

    experiment: str
    arm: str
    share: float  # of the arm in its experiment, to compare with the counted share


@dataclass(frozen=True)
class Choice:
    """Settings for one user. A setting of None stays as the service is configured."""

    held_at: Source | None = None  # the highest rung that may answer; None: the best that can
    exposures: tuple[Exposure, ...] = ()
    mode: Mode | None = None
    generation: int | Literal["live", "canary", "none"] | None = None
    release: Path | None = None
    paths: int | None = None
    prefixes: int | None = None
    mode_experiment: str | None = None  # the experiment that chose the mode

    def under(self, asked: Mode | None) -> "Choice":
        """Return the choice for a request that asked for a mode (None: for no mode).

        The request keeps its mode, and is in no experiment on modes.
        """
        if asked is None or self.mode_experiment is None:
            return self
        others = tuple(each for each in self.exposures if each.experiment != self.mode_experiment)
        return replace(self, exposures=others, mode=None, mode_experiment=None)

    def layers(self, manifest: Manifest | None, user_id: str) -> tuple[int, ...]:
        """Return the generations to look for the user's record in, newest first."""
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
        """Return the record within the caps.

        A last good copy may be older than the experiment, so its record is capped here as well.
        """
        if record is None or self.generation == "none":
            return None
        paths = MAX_PATHS if self.paths is None else self.paths
        kept = tuple(
            prefix for prefix in record.prefixes if prefix.path is None or prefix.path < paths
        )
        return replace(record, prefixes=kept[: self.prefixes])


NO_CHOICE = Choice()


class Holdback:
    """Hold a small, fixed share of the users at each of HELD_RUNGS.

    So the latency and quality of every rung are measured every day, and not only on the day when
    the rung is needed. `stale` has no share of its own: its answers are `personal` answers of an
    older record, and the ages of records show their worth. A user stays at a rung over processes,
    releases and time.
    """

    def __init__(self, share: float) -> None:
        self._share = share  # of all users, for each rung; 0 holds nobody

    def rung_of(self, user_id: str) -> Source | None:
        """Return the rung that holds the user; None for the best rung that can answer."""
        if not self._share:
            return None
        digest = hashlib.blake2b(user_id.encode(), digest_size=8, key=_HOLDBACK_SALT).digest()
        at = int(int.from_bytes(digest, "big") / _SPAN / self._share)
        return HELD_RUNGS[at] if at < len(HELD_RUNGS) else None


class Experiments:
    """Experiments and holdback of one service.

    Raises ValueError for experiments that cannot run together.
    """

    def __init__(self, experiments: Sequence[Experiment], *, held_share: float = 0.0) -> None:
        _check_together(experiments)
        self._holdback = Holdback(held_share)
        self._layers = [
            (_Buckets("layer", name), tuple(_segments(name, of_layer)))
            for name, of_layer in _by_layer(experiments).items()
        ]
        self._choices: dict[tuple[tuple[str, str], ...], Choice] = {}

    def assign(self, user_id: str | None, asked: Mode | None, *, is_shed: bool) -> Choice:
        """Return how a request of this user is served. `asked`: the mode that it names, if any.

        A shed request gets `popular` in any case, so the holdback does not apply to it.
        """
        if user_id is not None and not is_shed:
            held_at = self._holdback.rung_of(user_id)
            if held_at is not None:
                return Choice(held_at=held_at)
        return self.choose(user_id).under(asked)

    def choose(self, user_id: str | None) -> Choice:
        """Return the choice of the user's arms.

        It stays the same for a user as long as layer, share, salt and arms do.
        """
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
    """Map users to [0, 1), uniformly, and independently for each purpose and salt."""

    def __init__(self, purpose: str, salt: str) -> None:
        key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
        self._hash = hashlib.blake2b(key=key, digest_size=8, person=purpose.encode())

    def place(self, text: bytes) -> float:
        hashed = self._hash.copy()
        hashed.update(text)
        return (int.from_bytes(hashed.digest(), "big") >> 11) / (1 << 53)


class _Segment:
    """An experiment and its part [start, end) of a layer."""

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
    """Yield the segment that holds the place, if there is one."""
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
