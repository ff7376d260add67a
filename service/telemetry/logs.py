"""Log formatters for text and JSON lines, and the log line of each request.

At INFO, no line contains a history, reasoning text or an unhashed user id.
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
    JSON = "json"  # also logs one line per request


def configure(log_format: LogFormat) -> None:
    """Log to stderr at INFO and above. For entry points only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == LogFormat.JSON else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def user_hash(user_id: str) -> str:
    """Return the name of a user in logs: 16 hex digits, equal in every process and release."""
    return f"{hash_user(user_id):016x}"


class TextLines(logging.Formatter):
    """Formats a line as time, level, logger and message, then the event's fields as JSON."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base class's
        text, fields = super().formatMessage(record), _fields(record)
        return f"{text} {_dump(fields)}" if fields else text


class JsonLines(logging.Formatter):
    """Formats a line as a JSON object: time, level, logger, message, request_id, event fields."""

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
    """Logs one line per request.

    Builds the LogRecord itself: `Logger.info` walks the stack to find its caller.
    """

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
    """Return the fields of `logger.info("exposure", extra={"fields": {...}})`."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _dump(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
