"""The files of the pages `/explore` and `/docs`, under a policy that lets nothing else in."""

from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import Response

_FILES = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing inline, and no text that becomes markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_router(path: str) -> APIRouter:
    """Return the routes of the page at `path`, which begins with the HTML file of that name."""
    router = APIRouter(include_in_schema=False)
    files = {file.name: file.read_bytes() for file in _FILES.iterdir()}

    @router.get(path)
    async def page() -> Response:
        return _file(f"{path.strip('/')}.html")

    @router.get(path + "/page/{name}")
    async def part(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return _file(name)

    def _file(name: str) -> Response:
        return Response(files[name], headers=_HEADERS, media_type=_TYPES[Path(name).suffix])

    return router
