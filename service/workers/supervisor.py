"""Start the workers of a service, and end them together.

    SIGTERM, SIGINT  to all workers at once; the supervisor ends behind the last one
    SIGHUP           one worker after the other reads its release again, while it serves on
    a worker ends    it is started again, after a pause that grows; the others serve on
    the supervisor   the workers notice, and end as after SIGTERM
    ends

The first worker starts alone: what keeps it from serving is reported once, as by a single process.
Knows nothing of requests.
"""

import asyncio
import logging
import secrets
import signal
import socket
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import SecretStr

from models.store.embedded import resolve
from service.settings import EffectiveSettings, ServiceSettings
from service.telemetry import logs
from service.telemetry.merged_metrics import merge, render
from service.workers.assignment import Assignment, choose_cores
from service.workers.listeners import CAN_DIVIDE, bind, reserve
from service.workers.slot import Slot

_KILL_AFTER_S = 10.0  # behind SIGTERM; a worker ends by itself before that
logger = logging.getLogger(__name__)


def supervise(effective: EffectiveSettings) -> int:
    """Serve with several workers until a signal arrives; return the exit code.

    Raises InvalidSettings and StoreUnavailable as a single process does.
    """
    settings = effective.settings
    with ExitStack() as opened:
        port = opened.enter_context(reserve(settings.host, settings.port))
        admin = None
        if settings.admin_port is not None:
            admin = opened.enter_context(bind(settings.admin_host, settings.admin_port))
        # Held by the supervisor, so that the embedded server outlives a worker.
        opened.enter_context(resolve(settings.redis_url, settings.state_dir))
        logs.configure(settings.log_format)
        return asyncio.run(Supervisor(_with_secret(effective), port, admin).run())


class Supervisor:
    """The workers of one service."""

    def __init__(
        self, effective: EffectiveSettings, port: socket.socket, admin: socket.socket | None
    ) -> None:
        """port: reserved, and not listening. admin: of the first worker; None for no admin port."""
        self._registry = CollectorRegistry()
        self._restarts = Counter(
            "thinkahead_worker_restarts",
            "Starts of a worker whose process had ended.",
            ["worker"],
            registry=self._registry,
        )
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._slots = self._make_slots(effective, port, admin)
        up = Gauge(
            "thinkahead_worker_up",
            "1 while the worker listens.",
            ["worker"],
            registry=self._registry,
        )
        for slot in self._slots:
            self._restarts.labels(slot.index)
            up.labels(slot.index).set_function(slot.serves.is_set)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        first, *others = self._slots
        keeping = [asyncio.create_task(first.keep(gives_up=True))]
        await _first_of(first.serves.wait(), asyncio.shield(keeping[0]))
        if keeping[0].done() and not self._stopping.is_set():
            return _exit_code(keeping[0].result())
        if not self._stopping.is_set():
            keeping += [asyncio.create_task(slot.keep()) for slot in others]
        reloading = asyncio.create_task(self._reload_when_wanted())
        await self._stopping.wait()
        reloading.cancel()
        await self._await_ends(keeping)
        return 0

    def _stop(self, number: signal.Signals) -> None:
        self._stopping.set()
        for slot in self._slots:
            slot.end(number)

    async def _await_ends(self, keeping: list["asyncio.Task[int]"]) -> None:
        _, late = await asyncio.wait(keeping, timeout=_KILL_AFTER_S)
        if late:
            logger.error("%d workers did not end in %g s: killed", len(late), _KILL_AFTER_S)
            for slot in self._slots:
                slot.kill()
        await asyncio.gather(*keeping)

    async def _reload_when_wanted(self) -> None:
        while await self._reload_wanted.wait():
            self._reload_wanted.clear()
            await self.reload()

    async def reload(self) -> dict[str, str]:
        """Reload one worker after the other; return the outcome by worker."""
        async with self._reloading:
            outcomes = {str(slot.index): await slot.reload() for slot in self._slots}
        logger.info("reloaded: %s", outcomes)
        return outcomes

    async def page(self) -> str:
        """Return the metrics of all workers as one page."""
        snapshots = await asyncio.gather(*(slot.metrics() for slot in self._slots))
        return render(merge(snapshots), self._registry).decode()

    async def status(self) -> list[dict[str, Any]]:
        return [slot.status for slot in self._slots]

    def _make_slots(
        self, effective: EffectiveSettings, port: socket.socket, admin: socket.socket | None
    ) -> list[Slot]:
        settings = effective.settings
        shared = None if CAN_DIVIDE else port.fileno()
        cores = choose_cores(settings.workers, is_pinned=settings.pin_workers)
        slots = []
        for index, core in enumerate(cores):
            of_admin = admin.fileno() if admin is not None and index == 0 else None
            assignment = Assignment.of(
                effective,
                index=index,
                core=core,
                port=port.getsockname()[1],
                listener=shared,
                admin_listener=of_admin,
            )
            slot = Slot(
                assignment,
                answers={"page": self.page, "reload": self.reload, "status": self.status},
                inherited=[each for each in (shared, of_admin) if each is not None],
                on_restart=lambda number: self._restarts.labels(number).inc(),
            )
            slots.append(slot)
        return slots


def _with_secret(effective: EffectiveSettings) -> EffectiveSettings:
    """Return the settings with a cursor secret, so that each worker continues any list."""
    settings = effective.settings
    if settings.cursor_secret is not None:
        return effective
    made: ServiceSettings = settings.model_copy(
        update={"cursor_secret": SecretStr(secrets.token_hex(32))}
    )
    return EffectiveSettings(made, {**effective.origins, "cursor_secret": "made at the start"})


async def _first_of(*awaited: Coroutine[Any, Any, object] | asyncio.Future[Any]) -> None:
    """Wait for the first of these to end, and cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in awaited]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _exit_code(code: int) -> int:
    """Return the exit code of a worker, as a shell writes that of a killed process."""
    return code if code >= 0 else 128 - code
