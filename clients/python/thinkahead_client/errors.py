"""Exceptions of the client, made from HTTP statuses and problems (RFC 9457).

ClientError
  InvalidArgument    an option or id that no service accepts: nothing was sent
  DeadlineExceeded   no answer within the deadline of the call
  Unreachable        no connection, or a broken one
  BadAnswer          an answer in an unknown format, such as a proxy's page
  Refused            an error status from the service or a proxy in front of it
    NotAccepted      400, 404, 409, 413, 422, 431: fix the request
    NotAllowed       401, 403: use a valid key with the right scope
    Gone             410: the list of a cursor has ended; start it again without a cursor
    Busy             429, 503: retry later, if at all
    Faulty           any other 4xx or 5xx

Knows nothing of how a call is made.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MAX_DETAIL = 500  # characters kept of a text from the response


class ClientError(Exception):
    """Base class of the client's exceptions; the message is one line."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class InvalidArgument(ClientError, ValueError):
    """An option or an id that no service accepts; nothing was sent."""


class DeadlineExceeded(ClientError):
    """No answer within the deadline; `__cause__` is the last failed attempt, if there was one."""


class Unreachable(ClientError):
    """No connection to the service, or a connection that broke before the answer was complete."""


class BadAnswer(ClientError):
    """An answer that this client cannot read, from another server or an incompatible version."""


class Refused(ClientError):
    """An error status.

    Attributes:
        status: HTTP status.
        detail: error of this request, for a human reader.
        errors: (field, error) of each invalid field.
        request_id: id in the logs of the service.
        retry_after_s: seconds from the Retry-After header.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        request_id: str | None = None,
        errors: tuple[tuple[str, str], ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        fields = "; ".join(f"{where}: {what}" for where, what in errors)
        super().__init__(f"{status}: {detail}" + (f" ({fields})" if fields else ""))
        self.status = status
        self.detail = detail
        self.request_id = request_id
        self.errors = errors
        self.retry_after_s = retry_after_s


class NotAccepted(Refused):
    """The request is invalid; a retry fails again."""


class NotAllowed(Refused):
    """The API key is missing or unknown, or lacks the scope."""


class Gone(Refused):
    """The release or generation of a cursor is no longer live: start again without a cursor."""


class Busy(Refused):
    """The service is overloaded or draining, the store is away, or the key's rate is used up."""


class Faulty(Refused):
    """An unexpected error status."""


_KINDS: Mapping[int, type[Refused]] = {
    **dict.fromkeys((400, 404, 409, 413, 422, 431), NotAccepted),
    **dict.fromkeys((401, 403), NotAllowed),
    410: Gone,
    **dict.fromkeys((429, 503), Busy),
}


def parse_refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """Return the exception for a 4xx or 5xx response, from the service or a proxy.

    `headers` must be case-insensitive.
    """
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": body.decode(errors="replace")}
    return _KINDS.get(status, Faulty)(
        status,
        " ".join(str(problem.get("detail", "")).split())[:_MAX_DETAIL],
        request_id=headers.get("x-request-id"),
        errors=_fields(problem.get("errors")),
        retry_after_s=read_retry_after(headers.get("retry-after"), now=datetime.now(UTC)),
    )


def read_retry_after(text: str | None, *, now: datetime) -> float | None:
    """Return the seconds from `now` for either form of the header; None if absent or invalid."""
    if text is None:
        return None
    if (digits := text.strip()).isdecimal():
        return float(digits)  # float() refuses some of the control characters that strip() removes
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000" means UTC without a known zone
        moment = moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)


def _fields(errors: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(errors, list):
        return ()
    return tuple(
        (str(error.get("where", ""))[:_MAX_DETAIL], str(error.get("what", ""))[:_MAX_DETAIL])
        for error in errors
        if isinstance(error, dict)
    )
