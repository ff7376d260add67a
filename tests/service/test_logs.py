"""Log lines: their two forms, and data that must not stand in them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from service.telemetry.logs import JsonLines, TextLines, user_hash
from tests.fakes.memory_store import MemoryStore
from tests.fakes.service_harness import (
    GENERATION,
    activate,
    give_history,
    give_record,
    item_ids,
    new_record,
    serving,
)

ANN = "ann@example.org"


class Written:
    """All lines from INFO on, as a service of that format writes them."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(formatter)
        self.handler.addFilter(lambda record: record.name != "httpx")  # the client of the tests

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture(params=[JsonLines, TextLines])
def written(request: pytest.FixtureRequest) -> Iterator[Written]:
    written = Written(request.param())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    root.addHandler(written.handler)
    yield written
    root.removeHandler(written.handler)
    root.setLevel(level)


async def a_bit_of_everything(log_format: str) -> None:
    """A user with history, record and thoughts; answers, events, errors, an experiment."""
    store = MemoryStore()
    await give_history(store, ANN, item_ids(3))
    await give_record(store, ANN, new_record())
    await activate(store, GENERATION)
    arms = [{"name": "test", "share": 1, "arms": [{"name": "only"}]}]
    async with serving(store, log_format=log_format, experiments=arms) as service:
        await service.recommend(ANN, n=3, explain="true")
        assert (await service.client.post(f"/events/{ANN}", json={"item_id": "x1y2"})).is_success
        await service.client.get(f"/recommend/{ANN}?n=0")
        await service.client.get(f"/nothing/{ANN}")


async def test_no_line_holds_a_history_a_thought_or_a_plain_user_id(written: Written) -> None:
    await a_bit_of_everything("json")
    assert "exposure" in written.text
    for hidden in (ANN, "ann@", "Thought", "x1y2", *item_ids(3)):
        assert hidden not in written.text


async def test_a_json_line_says_who_asked_what_and_how_it_went(
    caplog: pytest.LogCaptureFixture,
) -> None:
    written = Written(JsonLines())
    caplog.set_level(logging.INFO)
    logging.getLogger().addHandler(written.handler)
    try:
        await a_bit_of_everything("json")
    finally:
        logging.getLogger().removeHandler(written.handler)
    lines = [line for line in written.objects() if line["logger"] == "service.requests"]
    assert [(line["method"], line["status"]) for line in lines] == [
        ("GET", 200),
        ("POST", 200),
        ("GET", 422),
        ("GET", 404),
    ]
    first = lines[0]
    assert first["route"].endswith("/recommend/{user_id}")
    assert (first["source"], first["user"]) == ("personal", user_hash(ANN))
    assert first["ms"] > 0
    assert len({line["request_id"] for line in lines}) == len(lines)
    (exposure,) = [line for line in written.objects() if line["message"] == "exposure"]
    assert exposure["request_id"] == first["request_id"]


def test_a_failure_is_one_json_line_with_its_traceback() -> None:
    written = Written(JsonLines())
    logger = logging.getLogger("tests.logs")
    logger.addHandler(written.handler)
    try:
        raise ValueError("first line\nsecond line")
    except ValueError:
        logger.exception("it failed:\n%s", "badly")
    logger.removeHandler(written.handler)
    (line,) = written.objects()
    assert (line["level"], line["message"]) == ("ERROR", "it failed:\nbadly")
    assert "ValueError: first line" in line["traceback"]


async def test_text_has_no_line_a_request(written: Written) -> None:
    await a_bit_of_everything("text")
    assert "service.requests" not in written.text
