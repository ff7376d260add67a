"""Engines that think: `transformers` or `vllm` in this process, or either on Ray's workers.

Torch, vLLM and Ray are imported only when an engine that needs them is loaded.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from models.errors import InvalidRelease
from models.extras import needs_extras
from models.night.evidence import Evidence
from models.reasoner.think import Reasoner, UserHistory, UserThoughts, reads_evidence
from models.release.release import Release
from offline.disk.bases import reasoner_files
from offline.settings import RefreshSettings
from offline.think.engine_choice import Engine, EngineSettings, LocalEngine
from offline.think.micro_batch import Think, bind_think

if TYPE_CHECKING:
    from models.reasoner.vllm_engine import VllmReasoner

_EXTRAS: dict[Engine, str] = {"transformers": "night", "vllm": "vllm", "ray": "ray"}


class Thinkers:
    """Loads the engine of one release after another, and keeps a reasoner that stays the same."""

    def __init__(self, settings: RefreshSettings, choice: EngineSettings) -> None:
        self._settings = settings
        self._choice = choice
        self._reasoner: Reasoner | None = None
        self._files: dict[str, str] = {}  # of that reasoner: SHA-256 by name

    def load(self, release: Release) -> Think:
        """Load an engine, ready for micro-batches.

        Raises:
            InvalidSettings: a library of the engine is not installed.
            InvalidRelease: there is no reasoner, or it cannot be loaded.
        """
        if not (release.reasoner_dir / "config.json").is_file():
            # transformers would take `beauty/reasoner`, if it is no folder, for a repository on the
            # Hub
            raise InvalidRelease(f"{release.reasoner_dir}: no config.json, expected a reasoner")
        try:
            with needs_extras(_EXTRAS[self._choice.engine]):
                if self._choice.engine == "ray":
                    return RayThink(release.directory, self._settings, self._choice)
                reasoner = self._reasoner_of(self._choice.engine, release)
        except (OSError, ValueError, KeyError, RuntimeError) as exc:
            reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
            raise InvalidRelease(f"{release.reasoner_dir}: {reason}") from exc
        evidence = None
        if reads_evidence(release.manifest.recipe):
            evidence = Evidence.of(release.catalog, release.load_memory())
        return bind_think(reasoner, release.catalog, self._settings, evidence)

    def _reasoner_of(self, engine: LocalEngine, release: Release) -> Reasoner:
        files = reasoner_files(release)
        if self._reasoner is None or files != self._files:
            self._reasoner = _load_reasoner(engine, release, self._settings, self._choice)
            self._files = files
        elif engine == "vllm":
            cast("VllmReasoner", self._reasoner).trie = release.catalog.trie
        return self._reasoner


def load_engine(release: Release, settings: RefreshSettings, choice: EngineSettings) -> Think:
    """Load the engine of one release. Raises as `Thinkers.load` does."""
    return Thinkers(settings, choice).load(release)


def _load_reasoner(
    engine: LocalEngine, release: Release, settings: RefreshSettings, choice: EngineSettings
) -> Reasoner:
    if engine == "vllm":
        from models.reasoner.vllm_engine import VllmReasoner, VllmSettings

        return VllmReasoner.load(
            release.reasoner_dir,
            release.catalog.trie,
            width=settings.width,
            settings=VllmSettings(
                tensor_parallel=choice.tensor_parallel,
                adapter=choice.adapter,
                max_model_len=choice.max_model_len,
                memory_share=choice.memory_share,
                dtype=choice.dtype,
            ),
        )
    import torch
    from transformers.utils import logging as transformers_logging

    from models.reasoner.placement import place
    from models.reasoner.transformers_engine import TransformersReasoner

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # two threads, beside other work, were 20 times slower than one
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    placed = place(choice.device, choice.dtype)
    return TransformersReasoner.load(release.reasoner_dir, release.space, **placed._asdict())


class RayThink:
    """A `Think` that sends micro-batches to Ray's workers.

    A call waits for its own micro-batch. Micro-batches announced by `expect` run in advance, and
    calls must follow in the announced order. A micro-batch that was not announced runs at once,
    alone.
    """

    def __init__(
        self, release_dir: Path, settings: RefreshSettings, choice: EngineSettings
    ) -> None:
        from models.reasoner.ray_pool import RayPool

        self._pool = RayPool(
            partial(_load_on_worker, release_dir, settings, choice),
            workers=choice.workers,
            num_gpus=_gpus_per_worker(choice),
            address=choice.address,
        )
        self._expected: list[Sequence[UserHistory]] = []
        self._coming: Iterator[list[UserThoughts] | None] = iter(())

    def expect(self, batches: Sequence[Sequence[UserHistory]]) -> None:
        """Announce all remaining micro-batches of a night, so that each worker loads once."""
        self._expected = list(reversed(batches))
        self._coming = self._pool.think(batches)

    def __call__(self, users: Sequence[UserHistory]) -> list[UserThoughts]:
        if self._expected and list(users) == list(self._expected[-1]):
            self._expected.pop()
            found = next(self._coming)
        else:
            found = next(self._pool.think([users]))
        if found is None:
            raise InvalidRelease("thinking failed on a Ray worker; its log says why")
        return found

    def close(self) -> None:
        self._pool.close()


def _load_on_worker(release_dir: Path, settings: RefreshSettings, choice: EngineSettings) -> Think:
    return load_engine(Release.load(release_dir), settings, replace(choice, engine=choice.on_ray))


def _gpus_per_worker(choice: EngineSettings) -> int:
    """Return the GPUs of a worker; Ray hides all others from it."""
    if choice.device == "cpu" or not _has_gpu():
        return 0
    return choice.tensor_parallel if choice.on_ray == "vllm" else 1


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
