"""Log lines, as text or as one JSON object each, and the line about every request.

No history, no reasoning text and no plain user id stands in any of them at INFO.
"""

import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson
from starlette.types import Scope

from models.store.records import hash_user

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"  # with a line for every request


def configure(log_format: LogFormat) -> None:
    """The root logger writes to stderr from INFO on; for entry points only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == LogFormat.JSON else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def user_hash(user_id: str) -> str:
    """How logs name a user: 16 digits of hex, the same in every process and release."""
    return f"{hash_user(user_id):016x}"


class TextLines(logging.Formatter):
    """Time, level, logger, message; then the fields of an event, as JSON."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base class's
        text, fields = super().formatMessage(record), _fields(record)
        return f"{text} {_dump(fields)}" if fields else text


class JsonLines(logging.Formatter):
    """time, level, logger, message, the request's id if there is one, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := request_id_var.get():
            line["request_id"] = request_id
        line |= _fields(record)
        if record.exc_info and record.exc_info[0]:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return _dump(line)


class RequestLog:
    """One line a request. Built by hand: `Logger.info` walks the stack to find its caller."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("service.requests")

    def write(self, scope: Scope, *, route: str, source: str, status: int, seconds: float) -> None:
        if not self._logger.isEnabledFor(logging.INFO):
            return
        fields: dict[str, Any] = {
            "method": scope["method"],
            "route": route,
            "status": status,
            "source": source or None,
            "ms": round(1000 * seconds, 3),
            "trace": scope["state"]["trace"].trace_id,
        }
        if user_id := scope.get("path_params", {}).get("user_id"):
            fields["user"] = user_hash(user_id)
        if client := scope["state"].get("client"):
            fields["client"] = client
        record = logging.LogRecord(
            self._logger.name, logging.INFO, __file__, 0, "request", None, None
        )
        record.fields = fields
        self._logger.handle(record)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What an event was logged with: `logger.info("exposure", extra={"fields": {...}})`."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _dump(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
