"""The Python client of the service: `Client` for threads, `AsyncClient` for asyncio.

    from service.client import Client, Options

`client` runs the calls, `calls` builds their HTTP requests, `answers` holds the typed responses,
`retries` decides on further attempts and hedges, `errors` has the exceptions. Needs httpx and
pydantic, and imports no other module of `service`.
"""

from service.client.client import AsyncClient, Client, Options

__all__ = ["AsyncClient", "Client", "Options"]
