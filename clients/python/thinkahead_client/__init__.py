"""The Python client of the service: `Client` for threads, `AsyncClient` for asyncio.

    from thinkahead_client import Client, Options

This module is the public interface. `client` runs the calls, `calls` builds their HTTP requests,
`answers` holds the typed responses, `retries` decides on further attempts and hedges, `ids` turns
integers into ids, `errors` has the exceptions. Needs httpx and pydantic, and no other package.
"""

from thinkahead_client.calls import NewEvent, NewItem
from thinkahead_client.client import AsyncClient, Client, Options
from thinkahead_client.errors import (
    BadAnswer,
    Busy,
    ClientError,
    DeadlineExceeded,
    Faulty,
    Gone,
    InvalidArgument,
    NotAccepted,
    NotAllowed,
    Refused,
    Unreachable,
)

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "Busy",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Faulty",
    "Gone",
    "InvalidArgument",
    "NewEvent",
    "NewItem",
    "NotAccepted",
    "NotAllowed",
    "Options",
    "Refused",
    "Unreachable",
]
