"""One worker process, started again whenever it ends.

Knows processes, pauses and the channel. Knows nothing of the other workers.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from service.telemetry.merged_metrics import Snapshot, merge, only_counts, read_snapshot
from service.workers.assignment import Assignment
from service.workers.channel import Answers, Channel, ChannelError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0  # before a start that follows an end
_STABLE_S = 60.0  # a worker that ran this long begins again with the first pause
_PING_EVERY_S = 5.0
_HANGS_AFTER_S = 30.0  # without an answer to a ping; the event loop of a live worker answers
_SNAPSHOT_S = 2.0
logger = logging.getLogger(__name__)


class Backoff:
    """Pauses before restarts, each twice as long as the one before."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_PAUSE_S

    def next_pause(self, *, ran_s: float) -> float:
        """Return the seconds to wait. ran_s: seconds for which the ended process ran."""
        if ran_s >= _STABLE_S:
            self._pause_s = _FIRST_PAUSE_S
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return pause_s


class Slot:
    """A place in the crew, and the process that has it now."""

    def __init__(
        self,
        assignment: Assignment,
        *,
        answers: Answers,
        inherited: Sequence[int],
        on_restart: Callable[[int], None],
    ) -> None:
        """Prepare the place.

        Args:
            assignment: of each process that has this place.
            answers: to the questions of the worker.
            inherited: file descriptors that the process needs.
            on_restart: called with the number of the worker before each further start.
        """
        self.index = assignment.index
        self.num_restarts = 0
        self.serves = asyncio.Event()  # set while the worker listens
        self._assignment = assignment
        self._answers = {**answers, "serving": self._note_serving}
        self._inherited = inherited
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._ending = asyncio.Event()
        self._newest: Snapshot = []  # metrics of the running process, as last seen
        self._ended: Snapshot = []  # counts of the processes before

    @property
    def status(self) -> dict[str, Any]:
        return {
            "worker": self.index,
            "pid": self._process.pid if self._process is not None else None,
            "core": self._assignment.core,
            "serves": self.serves.is_set(),
            "restarts": self.num_restarts,
        }

    async def keep(self, *, gives_up: bool = False) -> int:
        """Run the worker again and again until `end`; return its last exit code.

        gives_up: return after a first process that never served, whose settings are wrong.
        """
        backoff = Backoff()
        while True:
            began_at = time.monotonic()
            code, has_served = await self._run()
            if self._ending.is_set() or (gives_up and not has_served):
                return code
            gives_up = False
            pause_s = backoff.next_pause(ran_s=time.monotonic() - began_at)
            logger.error(
                *("worker %d ended, %s; starts again in %g s", self.index, _why(code), pause_s)
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s)
                return code
            self.num_restarts += 1
            self._on_restart(self.index)

    def end(self, number: signal.Signals) -> None:
        """Send a signal, behind which no further process is started."""
        self._ending.set()
        self._send(number)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    async def reload(self) -> str:
        """Let the worker read its release directories again; return its outcome, or why not."""
        if self._channel is None or not self.serves.is_set():
            return "not serving"
        try:
            outcome: str = await self._channel.ask("reload")
        except ChannelError as exc:
            return f"failed: {exc}"
        return outcome

    async def metrics(self) -> Snapshot:
        """Return the metrics of this place since the start of the service.

        A process that gives none keeps the counts that it gave before, so that no sum falls.
        """
        now: Snapshot = only_counts(self._newest)
        if self._channel is not None and self.serves.is_set():
            with contextlib.suppress(ChannelError):
                answer = await self._channel.ask("snapshot", timeout_s=_SNAPSHOT_S)
                now = self._newest = read_snapshot(answer)
        return merge([now, self._ended])

    async def _run(self) -> tuple[int, bool]:
        """Run one process to its end; return its exit code, and True if it has served."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service", "worker", str(theirs.fileno())),
                pass_fds=[theirs.fileno(), *self._inherited],
                start_new_session=True,  # Ctrl-C reaches the supervisor, which passes it on once
            )
        if self._ending.is_set():
            process.terminate()
        with contextlib.suppress(ConnectionError):
            ours.sendall(self._assignment.encode())
        channel = self._channel = await Channel.on(ours, self._answers)
        reading, watching = asyncio.create_task(channel.run()), asyncio.create_task(self._watch())
        code = await process.wait()
        await reading
        watching.cancel()
        has_served = self.serves.is_set()
        self.serves.clear()
        self._process = self._channel = None
        self._ended, self._newest = merge([only_counts(self._newest), self._ended]), []
        return code, has_served

    async def _note_serving(self) -> None:
        assert self._process is not None
        self.serves.set()
        core = self._assignment.core
        where = "any core" if core is None else f"core {core}"
        logger.info("worker %d serves: pid %d on %s", self.index, self._process.pid, where)

    async def _watch(self) -> None:
        """Kill the worker when its event loop stands still."""
        await self.serves.wait()
        assert self._channel is not None
        while True:
            await asyncio.sleep(_PING_EVERY_S)
            try:
                await self._channel.ask("ping", timeout_s=_HANGS_AFTER_S)
            except ChannelError as exc:
                logger.error("worker %d is killed: %s", self.index, exc)
                self.kill()
                return

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _why(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"by {signal.Signals(-code).name}"
