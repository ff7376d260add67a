"""Follow the pointer of a live folder: serve the version that it names, within a second.

The pointer is read from the store, and from the folder where the store holds none. A version is
loaded or patched on a thread of its own while the engines before it go on serving, and takes over
by one assignment. A pointer that cannot be followed changes nothing: one line of the log says why,
and the same pointer is tried again, less and less often. Knows nothing of requests or users.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from models.errors import InvalidRecord, InvalidRelease, StoreUnavailable, one_line
from models.release.live import Changed, LiveFolder
from models.store.contract import ServingStore
from models.store.model_pointer import ModelPointer
from service.recommend.engine import CanaryEngine, Engine, Engines, Role
from service.reload import engine_at
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # between tries of a refused pointer

ReadPointer = Callable[[], Awaitable[ModelPointer | None]]
Outcome = Literal["taken", "unchanged", "refused"]
logger = logging.getLogger(__name__)


class Made(NamedTuple):
    """Engines of one pointer."""

    own: Engine
    canary: CanaryEngine | None
    changes: tuple[tuple[Role, Changed], ...]


class Refusal(NamedTuple):
    """A pointer that was read and not followed."""

    pointer: ModelPointer | None  # None for one that does not decode
    why: str
    pause_s: float  # until it is tried again
    again_at: float  # monotonic clock


class Place(Protocol):
    """Engines that the versions of one live folder replace."""

    @property
    def role(self) -> Role: ...

    def served(self) -> list[Engine]:
        """Return the engines that serve now, the canary's last."""

    def take(self, engine: Engine, canary: CanaryEngine | None) -> None: ...


class OwnPlace:
    """The service's own engine, and its canary."""

    role: Role = "own"

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def served(self) -> list[Engine]:
        canary = self._engines.canary
        return [self._engines.own, *([canary.engine] if canary is not None else [])]

    def take(self, engine: Engine, canary: CanaryEngine | None) -> None:
        self._engines.own, self._engines.canary = engine, canary


class ArmPlace:
    """The engine of one arm's release."""

    role: Role = "arm"

    def __init__(self, engines: Engines, path: Path) -> None:
        self._engines = engines
        self._path = path

    def served(self) -> list[Engine]:
        return [self._engines.arms[self._path]]

    def take(self, engine: Engine, canary: CanaryEngine | None) -> None:
        self._engines.arms = {**self._engines.arms, self._path: engine}


class ModelWatch:
    """Follows one live folder, for the service's own release or for that of an arm."""

    def __init__(
        self,
        settings: ServiceSettings,
        folder: LiveFolder,
        *,
        read: ReadPointer,
        place: Place,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """place: the engines that the folder's versions replace."""
        self.pointer: ModelPointer | None = None  # in use
        self.refusal: Refusal | None = None
        self._settings = settings
        self._folder = folder
        self._read = read
        self._place = place
        self._metrics = metrics
        self._monotonic = monotonic

    async def look(self, *, is_forced: bool = False) -> Outcome:
        """Read the pointer once and follow it. is_forced: also a pointer that was just refused.

        A store that is away changes nothing.
        """
        try:
            pointer = await self._read()
        except StoreUnavailable:
            return "unchanged"
        except (InvalidRecord, InvalidRelease) as exc:
            return self._refuse(None, one_line(exc))
        if pointer is None or pointer == self.pointer:
            self.refusal = None
            return "unchanged"
        if not is_forced and self._waits_with(pointer):
            return "unchanged"
        if self.pointer is not None and pointer.epoch <= self.pointer.epoch:
            return self._refuse(pointer, f"epoch {pointer.epoch}, in use is {self.pointer.epoch}")
        try:
            made = await asyncio.to_thread(self._make, pointer)
        except InvalidRelease as exc:
            return self._refuse(pointer, one_line(exc))
        except Exception as exc:
            logger.exception("following epoch %d failed", pointer.epoch)
            return self._refuse(pointer, f"{type(exc).__name__}: {one_line(exc)}")
        self._take(pointer, made)
        return "taken"

    def _waits_with(self, pointer: ModelPointer) -> bool:
        refused = self.refusal
        return refused is not None and refused.pointer == pointer and not self._is_due(refused)

    def _is_due(self, refused: Refusal) -> bool:
        return self._monotonic() >= refused.again_at

    def _make(self, pointer: ModelPointer) -> Made:
        """Make the engines of a pointer, each from the nearest one. Raises InvalidRelease."""
        served, role = self._place.served(), self._place.role
        own, changed = engine_at(self._settings, served, self._folder, pointer.version)
        if pointer.canary is None:
            return Made(own, None, ((role, changed),))
        engine, of_canary = engine_at(
            self._settings, [*served, own], self._folder, pointer.canary.version
        )
        canary = CanaryEngine(engine, pointer.canary)
        return Made(own, canary, ((role, changed), ("canary", of_canary)))

    def _take(self, pointer: ModelPointer, made: Made) -> None:
        before = self._place.served()[0]
        self._place.take(made.own, made.canary)
        if self.pointer is not None:  # at the start nobody has waited for it
            self._metrics.observe_swap_delay(time.time() - pointer.written_ms / 1000)
        self.pointer, self.refusal = pointer, None
        for role, changed in made.changes:
            if changed != "nothing":
                self._metrics.count_swap(role, changed)
        only_counts = made.canary is None and made.changes[0][1] == "counts"
        share = f", {made.canary.engine.label} for its canary" if made.canary is not None else ""
        logger.log(
            logging.DEBUG if only_counts else logging.INFO,  # counts change every second
            *("epoch %d: %s after %s%s", pointer.epoch, made.own.label, before.label, share),
        )

    def _refuse(self, pointer: ModelPointer | None, why: str) -> Outcome:
        before, pause_s = self.refusal, _FIRST_PAUSE_S
        if before is not None and (before.pointer, before.why) == (pointer, why):
            pause_s = min(2 * before.pause_s, _LONGEST_PAUSE_S)
        else:
            label = self._place.served()[0].label
            logger.error("model pointer refused, %s stays: %s", label, why)
        self.refusal = Refusal(pointer, why, pause_s, self._monotonic() + pause_s)
        self._metrics.count_swap(self._place.role, "refused")
        return "refused"


def read_own(store: ServingStore, folder: LiveFolder) -> ReadPointer:
    """Return a reader of the store's pointer, or of the folder's where the store holds none."""

    async def read() -> ModelPointer | None:
        return await store.read_model() or await asyncio.to_thread(folder.pointer)

    return read


def read_arm(folder: LiveFolder) -> ReadPointer:
    """Return a reader of a folder's pointer, without its canary: an arm has one version."""

    async def read() -> ModelPointer | None:
        pointer = await asyncio.to_thread(folder.pointer)
        return pointer.model_copy(update={"canary": None}) if pointer is not None else None

    return read
