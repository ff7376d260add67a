"""Keeps other web pages away from the page's routes: a browser here can reach this machine too."""

import ipaddress

from fastapi import Request
from starlette.exceptions import HTTPException

FOREIGN_PAGE = "this route answers its own page only, not a script of another page"
FOREIGN_HOST = (
    "without API keys the page is opened by an IP address or as localhost: a name could be made to "
    "lead here by another page"
)


class SameOrigin:
    """A dependency that rejects requests of other pages with 403.

    A name in the address bar may be one that its owner points at this machine (DNS rebinding). The
    browser then takes both for one page, so without API keys only an address is accepted.
    """

    def __init__(self, *, has_keys: bool) -> None:
        self._has_keys = has_keys

    async def __call__(self, request: Request) -> None:
        headers = request.headers
        host, origin = headers.get("host", ""), headers.get("origin")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403, FOREIGN_PAGE)
        if origin is not None and origin.partition("://")[2] != host:
            raise HTTPException(403, FOREIGN_PAGE)
        if not self._has_keys and not _is_address(host):
            raise HTTPException(403, FOREIGN_HOST)


def _is_address(host: str) -> bool:
    """Return True for `localhost` and IP addresses, each with or without a port."""
    name = host.rpartition("]")[0].removeprefix("[") or host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return True
