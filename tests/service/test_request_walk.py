"""The walk of one request through our files: few files, and none entered again and again.

A reader who follows `GET /recommend` opens each of these files. A *turn* is a stretch of calls
within one file: a file has two turns if another file is called between them.
"""

import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from models.online.build_kernel import built_library
from models.store.redis_store import RedisStore
from tests import ROOT
from tests.fakes.service_harness import (
    GENERATION,
    InProcess,
    RedisServer,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    serving,
    until_ready,
)

pytestmark = pytest.mark.skipif(
    built_library() is None, reason="the walk is that of the compiled kernel"
)

MAX_FILES = 30
MAX_TURNS = 10
# Work that runs beside requests: the heartbeat of the event loop and the polls of the store.
BACKGROUND = {"service/limits/loop_lag.py", "service/serving.py"}
# One call for each event of a history that is read for the first time.
ONE_CALL_AN_EVENT = {"models/store/events.py", "models/store/user_state.py"}


class Walk:
    """Calls within our files, recorded in all threads while `recording`."""

    def __init__(self) -> None:
        self.turns: Counter[str] = Counter()
        self._is_on = False
        self._last: dict[int, str] = {}  # file of the latest call, by thread
        self._names: dict[CodeType, str | None] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        self._is_on = True
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            self._is_on = False

    def profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event != "call" or not self._is_on or (name := self._name(frame.f_code)) is None:
            return
        thread = threading.get_ident()
        if self._last.get(thread) != name and self._root(frame) not in BACKGROUND:
            self._last[thread] = name
            self.turns[name] += 1

    def _root(self, frame: FrameType) -> str | None:
        """Return the file of ours that the event loop or a thread called first."""
        root: str | None = None
        at: FrameType | None = frame
        while at is not None:
            root, at = self._name(at.f_code) or root, at.f_back
        return root

    def _name(self, code: CodeType) -> str | None:
        if code not in self._names:
            file = Path(code.co_filename)
            is_ours = file.is_relative_to(ROOT / "service") or file.is_relative_to(ROOT / "models")
            self._names[code] = file.relative_to(ROOT).as_posix() if is_ours else None
        return self._names[code]


@pytest.fixture
def walk() -> Iterator[Walk]:
    walk = Walk()
    threading.setprofile(walk.profile)  # for the model thread, which the service starts
    yield walk
    threading.setprofile(None)


@pytest.fixture
async def service(walk: Walk, tmp_path: Path) -> AsyncIterator[InProcess]:
    with RedisServer(tmp_path) as server:
        store = RedisStore(server.url, timeout_ms=10_000)
        for user in ("other", "user"):
            await give_record(store, user, new_record())
            await give_history(store, user, item_ids(10))
        await activate(store, GENERATION)
        async with serving(store, manifest_poll_ms=60_000) as service:
            await until_ready(service)
            await service.recommend("other", n=10)
            yield service


async def test_a_request_goes_through_few_files(service: InProcess, walk: Walk) -> None:
    await service.recommend("user", n=10)
    with walk.recording():
        answer = await service.recommend("user", n=10)
    assert answer["source"] == "personal"
    assert len(walk.turns) <= MAX_FILES, " ".join(sorted(walk.turns))
    assert max(walk.turns.values()) <= MAX_TURNS, walk.turns.most_common(3)


async def test_the_first_request_of_a_user_goes_through_few_files(
    service: InProcess, walk: Walk
) -> None:
    with walk.recording():
        answer = await service.recommend("user", n=10)
    assert answer["source"] == "personal"
    assert len(walk.turns) <= MAX_FILES, " ".join(sorted(walk.turns))
    others = {name: num for name, num in walk.turns.items() if name not in ONE_CALL_AN_EVENT}
    assert max(others.values()) <= MAX_TURNS, walk.turns.most_common(3)
