"""What can go wrong between a caller of the service and its answer.

ClientError
  DeadlineExceeded   no answer inside the time that the call had
  Unreachable        no connection, or one that broke
  BadAnswer          an answer that is none of ours, such as a proxy's page
  Refused            the service, or what stands before it, said no
    NotAccepted      400, 404, 409, 413, 422, 431: fix the request
    NotAllowed       401, 403: another key, or another scope
    Gone             410: the list behind a cursor; begin again without one
    Busy             429, 503: later, or not at all
    Faulty           another status of 4xx or 5xx

Knows HTTP statuses and problems (RFC 9457). Knows nothing of how a call is made.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from models.errors import ThinkAheadError

_MAX_DETAIL = 500  # characters of what the other side says


class ClientError(ThinkAheadError):
    """Root of what a client raises; its text is one line."""


class DeadlineExceeded(ClientError):
    """No answer in time. Its cause is the last failure before, if there was one."""


class Unreachable(ClientError):
    """No connection to the service, or one that broke before the answer was whole."""


class BadAnswer(ClientError):
    """An answer that this client cannot read: not the service, or a much older one."""


class Refused(ClientError):
    """status: of HTTP. detail: this case, for a human. errors: (where, what) of each field.

    request_id: under which the service logged it. retry_after_s: as it asked for.
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
    """The request is at fault: the same again will be refused again."""


class NotAllowed(Refused):
    """The API key is missing, unknown, or not for this."""


class Gone(Refused):
    """What a cursor was of is no longer live: begin the list again without one."""


class Busy(Refused):
    """Overloaded, over this key's rate, draining, or the store is away."""


class Faulty(Refused):
    """An error that should not have come."""


_KINDS: Mapping[int, type[Refused]] = {
    **dict.fromkeys((400, 404, 409, 413, 422, 431), NotAccepted),
    **dict.fromkeys((401, 403), NotAllowed),
    410: Gone,
    **dict.fromkeys((429, 503), Busy),
}


def parse_refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """What an answer of 4xx or 5xx means, whoever wrote it. `headers`: names in any case."""
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
    """Seconds from `now`, of either form of the header; None if there is none or it is neither."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": of no known zone, so it is meant as UTC
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
