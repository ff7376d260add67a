"""The place of a worker, as its supervisor gives it: number, core, sockets, settings.

It travels over the worker's channel, so that no secret stands on a command line, and so that a
worker which starts again later has the settings of the others.
"""

import os
import socket
from typing import Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, SecretStr

from service.settings import EffectiveSettings, ServiceSettings
from service.workers.listeners import bind

_BLOCK = 65_536


class Assignment(BaseModel):
    """The place of one worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int  # from 0 on
    core: int | None  # the only CPU core to run on; None: any
    port: int  # of the API, as bound by the supervisor
    listener: int | None  # file descriptor of the socket that all share; None: bind one
    admin_listener: int | None  # file descriptor; None for all workers but the first
    settings: dict[str, Any]  # JSON types, secrets in plain text
    origins: dict[str, str]

    @classmethod
    def of(cls, effective: EffectiveSettings, **place: Any) -> Self:
        """Return an assignment with these settings; `place`: the other fields."""
        settings = effective.settings
        values = settings.model_dump(mode="json")
        for name in values:
            if isinstance(value := getattr(settings, name), SecretStr):
                values[name] = value.get_secret_value()
        return cls(settings=values, origins=dict(effective.origins), **place)

    @property
    def effective(self) -> EffectiveSettings:
        return EffectiveSettings(ServiceSettings(**self.settings), self.origins)

    def open_listener(self) -> socket.socket:
        """Return the socket of the API. Raises InvalidSettings."""
        if self.listener is not None:
            return socket.socket(fileno=self.listener)
        return bind(self.settings["host"], self.port, is_divided=True)

    def open_admin_listener(self) -> socket.socket | None:
        return None if self.admin_listener is None else socket.socket(fileno=self.admin_listener)

    def move_to_core(self) -> None:
        """Run this process, and threads that it starts later, on its core alone."""
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})

    def encode(self) -> bytes:
        """Return one line."""
        return orjson.dumps(self.model_dump()) + b"\n"


def read_assignment(channel: socket.socket) -> Assignment:
    """Read the first line of a channel, behind which nothing comes before the worker speaks.

    Raises EOFError if the supervisor has ended.
    """
    line = b""
    while not line.endswith(b"\n"):
        block = channel.recv(_BLOCK)
        if not block:
            raise EOFError("the supervisor has ended")
        line += block
    return Assignment.model_validate(orjson.loads(line))


def choose_cores(num_workers: int, *, is_pinned: bool) -> list[int | None]:
    """Return a core for each worker; None for each where there are fewer cores than workers.

    Only Linux pins processes.
    """
    if is_pinned and hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if num_workers <= len(cores):
            return [*cores[:num_workers]]
    return [None] * num_workers
