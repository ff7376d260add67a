"""Nights without a reasoner: generations on disk, a real Redis, and processes that die on cue."""

import asyncio
import io
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from models.reasoner.think import PathPrefix, UserThoughts
from models.release.release import Release
from models.store.events import Event
from models.store.manifest import Manifest
from models.store.redis_store import RedisStore
from offline.commands.cli import main
from offline.disk.generation import Generation, open_generation
from offline.disk.shards import ShardRow, write_part, write_summary
from offline.live.go_live import Launch, LiveSettings, go_live
from offline.progress import Stopwatch, make_progress
from tests import ROOT
from tests.fakes.service_harness import toy_release_dir

Result = TypeVar("Result")
START_MS = 1_700_000_000_000


@cache
def toy_release() -> Release:
    return Release.load(toy_release_dir())


@dataclass
class NightWorld:
    """Generations below `out_dir`, loaded into the server at `url`."""

    url: str
    out_dir: Path

    @property
    def release(self) -> Release:
        return toy_release()

    def ask(self, question: Callable[[RedisStore], Awaitable[Result]]) -> Result:
        """One question to the store, over a connection of its own."""

        async def run() -> Result:
            store = RedisStore(self.url, 5000)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def think(
        self,
        number: int,
        users: Sequence[str],
        *,
        layer: str = "base",
        seed: int = 0,
        replaced: int | None = None,
        num_prefixes: int = 6,
        **more: Any,
    ) -> Generation:
        """A finished generation of legal prefixes; the same seed thinks the same of a user."""
        number += START_MS
        rows = [
            row(self.release, user, number // 1000, seed=seed, num_prefixes=num_prefixes)
            for user in users
        ]
        write_part(self.out_dir / str(number) / "part-00000.parquet", rows)
        summary = {
            "generation": number,
            "created_at": number // 1000,
            "layer": layer,
            "epoch": None,
            "release": f"{self.release.name}@{self.release.version}",
            "users_due": len(users),
            "refreshed": len(users),
            "empty": 0,
            "failed": 0,
            "carried": 0,
            "replaced": replaced,
            "tokens": 7,
            **more,
        }
        write_summary(self.out_dir / str(number), summary)
        return open_generation(self.out_dir / str(number))

    def launch(self, generation: Generation, **settings: Any) -> dict[str, Any]:
        with self.launching(generation, **settings) as launch:
            return go_live(launch)

    @contextmanager
    def launching(self, generation: Generation, **settings: Any) -> Iterator[Launch]:
        with asyncio.Runner() as runner:
            store = RedisStore(self.url, 5000)
            progress = make_progress(Console(file=io.StringIO()))
            chosen = LiveSettings(**settings)
            try:
                yield Launch(generation, self.release, store, runner, progress, chosen, Stopwatch())
            finally:
                runner.run(store.close())

    def manifest(self) -> Manifest | None:
        return self.ask(lambda store: store.read_manifest())

    def live(self) -> list[int]:
        """Live generations, newest first, counted from START_MS."""
        manifest = self.manifest()
        assert manifest is not None
        return [layer.generation - START_MS for layer in manifest.layers]

    def answered_from(self, user_id: str) -> int | None:
        """The generation that this user would be answered from."""
        manifest = self.manifest()
        assert manifest is not None
        layers = [layer.generation for layer in manifest.layers_for(user_id)]
        space = self.release.space
        state = self.ask(lambda store: store.read_user(user_id, layers, space))
        return state.record.generation - START_MS if state.record else None

    def append(self, user_id: str, *items: str) -> None:
        events = [Event(item, 1000 + at, f"{item}-{at}") for at, item in enumerate(items)]
        self.ask(lambda store: store.append_events(user_id, events))

    def command(self, *arguments: object, before: str = "") -> "subprocess.CompletedProcess[str]":
        """`python -m offline ...`, in this process or, after the code `before`, in its own."""
        words = [str(argument) for argument in arguments]
        if words[0] in ("load", "verify", "activate", "compact", "worker"):
            words += ["--release", str(toy_release_dir())]
        words += ["--redis", self.url, "--out", str(self.out_dir)]
        if not before:
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
                code = main(words)
            return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
        run = f"from offline.commands.cli import main\nsys.exit(main({words!r}))"
        program = f"{before}\nimport sys\n{run}"
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def said(self, *arguments: object) -> dict[str, Any]:
        """Run a command that must succeed, and return the JSON that it prints."""
        done = self.command(*arguments)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def row(
    release: Release, user_id: str, created_at: int, *, seed: int = 0, num_prefixes: int = 6
) -> ShardRow:
    known = release.catalog.trie.prefixes()
    start = zlib.crc32(f"{seed}/{user_id}".encode())
    chosen = known[(start + 7 * np.arange(num_prefixes)) % len(known)].tolist()
    prefixes = tuple(PathPrefix(tuple(codes), 0, -float(at), 1) for at, codes in enumerate(chosen))
    return ShardRow(created_at, UserThoughts(user_id, (f"about {user_id}",), prefixes, 0, 9))


def names(count: int) -> list[str]:
    return [f"user-{number:05d}" for number in range(count)]
