"""Every `curl` on the pages, sent to a service and its admin port in this process."""

import json
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import TypeAdapter

from service.admin import create_admin
from service.api.responses import Recommendation
from service.settings import resolve_settings
from tests.docs.pages import Block, blocks, commands
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import activate, serving

CURLS = sorted({tuple(words) for _, words in commands("curl")})
ADMIN_PORT = 8001


class Request:
    """A request as `curl` would send it."""

    def __init__(self, words: tuple[str, ...]) -> None:
        left = list(words[1:])
        self.method, self.body = "GET", None
        self.headers: dict[str, str] = {}
        while left:
            word = left.pop(0)
            if word == "-X":
                self.method = left.pop(0)
            elif word == "-d":
                self.body = left.pop(0)
            elif word == "-H":
                name, _, value = left.pop(0).partition(":")
                self.headers[name] = value.strip()
            elif not word.startswith("-"):
                self.url = urlsplit(word if "://" in word else f"http://{word}")
        if self.body is not None and "-X" not in words:
            self.method = "POST"


@pytest.mark.parametrize("words", CURLS, ids=" ".join)
async def test_an_example_is_answered(words: tuple[str, ...]) -> None:
    request = Request(words)
    if request.body is not None:
        json.loads(request.body)
        assert {name.lower() for name in request.headers} >= {"content-type"}
    store = MemoryStore()
    async with serving(store) as service:
        client = service.client
        if request.url.port == ADMIN_PORT:
            for epoch in (1, 2):
                await activate(store, 1_700_000_000_000 + epoch, epoch=epoch)
            effective = resolve_settings(["--release", "unused"], {})
            admin = create_admin(service.serving, store, effective, None)
            transport = httpx.ASGITransport(admin)
            client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        target = (
            f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
        )
        answer = await client.request(
            request.method, target, content=request.body, headers=request.headers
        )
    assert answer.status_code in (200, 202, 409), answer.text
    assert answer.status_code != 409 or request.url.port == ADMIN_PORT


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: block.page)
def test_a_shown_answer_is_an_answer(block: Block) -> None:
    answer = json.loads(block.text)
    TypeAdapter(Recommendation).validate_python(answer)
    whole = Recommendation.__required_keys__ | Recommendation.__optional_keys__
    assert set(answer) | {"wish"} == whole, "a wish is shown on its own page"
