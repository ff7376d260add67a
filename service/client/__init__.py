"""The service from a backend's side: `Client` for threads, `AsyncClient` for asyncio.

from service.client import Client, Options
"""

from service.client.client import AsyncClient, Client, Options

__all__ = ["AsyncClient", "Client", "Options"]
