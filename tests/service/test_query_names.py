"""Unknown query parameters are rejected on every route, with the name that was probably meant."""

import pytest

from tests.fakes.service_harness import InProcess

NAMES = ("n", "explain", "exclude_seen", "category", "mode", "cursor", "exclude")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("num", "unknown parameter, did you mean n?"),
        ("N", "unknown parameter, did you mean n?"),
        ("explian", "unknown parameter, did you mean explain?"),
        ("exclude-seen", "unknown parameter, did you mean exclude_seen?"),
        ("limit", f"unknown parameter, expected one of {', '.join(NAMES)}"),
    ],
)
async def test_an_unknown_parameter_is_answered_with_the_nearest_one(
    service: InProcess, name: str, what: str
) -> None:
    """`?num=5` gave ten items, `?exclude-seen=false` left seen items out: both without a word."""
    for prefix in ("", "/v1"):
        answer = await service.client.get(f"{prefix}/recommend/user", params={name: "5", "n": "2"})
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"where": f"query.{name}", "what": what}]


async def test_every_documented_route_rejects_unknown_parameters(service: InProcess) -> None:
    document = (await service.client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = path.replace("{user_id}", "user")
            answer = await service.client.request(method, url, params={"num": 5})
            assert answer.status_code == 422, (method, path)
            assert answer.json()["errors"][0]["where"] == "query.num", (method, path)
            assert "422" in operation["responses"], (method, path)


async def test_known_parameters_may_be_repeated_and_empty(service: InProcess) -> None:
    answer = await service.client.get("/recommend/user?exclude=a&exclude=b&n=3&")
    assert answer.status_code == 200
    assert len(answer.json()["items"]) == 3
