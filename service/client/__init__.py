"""The Python client of the service: `Client` for threads, `AsyncClient` for asyncio.

    from service.client import Client, Options

This module is the public interface. `client` runs the calls, `calls` builds their HTTP requests,
`answers` holds the typed responses, `retries` decides on further attempts and hedges, `errors` has
the exceptions. Needs httpx and pydantic, and imports no other module of `service`.
"""

from models.catalog.fed_items import FedItem
from service.client.calls import NewEvent
from service.client.client import AsyncClient, Client, Options
from service.client.errors import (
    BadAnswer,
    Busy,
    ClientError,
    DeadlineExceeded,
    Faulty,
    Gone,
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
    "FedItem",
    "Gone",
    "NewEvent",
    "NotAccepted",
    "NotAllowed",
    "Options",
    "Refused",
    "Unreachable",
]
