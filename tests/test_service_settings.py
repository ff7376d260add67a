"""Settings of the service: what wins, and the one line for what is wrong."""

from pathlib import Path

import pytest

from models.errors import InvalidSettings
from models.release import FASTEST
from service.settings import ServiceSettings, load_settings


def test_arguments_win_over_the_environment_and_that_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {"THINKAHEAD_PORT": "9001", "THINKAHEAD_HOST": "::1", "PATH": "/bin"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(["--release", "somewhere", "--port", "9002"], environ)
    assert settings.release_dir == Path("somewhere")
    assert (settings.port, settings.host, settings.redis_timeout_ms) == (9002, "::1", 20)


def test_a_misspelt_environment_variable_is_refused_with_a_hint() -> None:
    with pytest.raises(InvalidSettings, match=r"REDIS_TIMEOUT is not.*THINKAHEAD_REDIS_TIMEOUT_MS"):
        load_settings(["--release", "somewhere"], {"THINKAHEAD_REDIS_TIMEOUT": "20"})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--relase", "x"], "--relase"),
        (["--release", "x", "--port", "many"], "--port"),
        (["--release", "x", "--port", "65536"], "--port"),
        (["--release", "x", "--redis", "http://example"], "--redis"),
        (["--release", "x", "--host", ""], "--host"),
        ([], "--release"),
    ],
)
def test_a_bad_argument_is_one_line_that_names_it(arguments: list[str], named: str) -> None:
    with pytest.raises(InvalidSettings, match=named) as caught:
        load_settings(arguments, {})
    assert "\n" not in str(caught.value)


def test_a_bad_value_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINKAHEAD_QUEUE_LIMIT", "0")
    with pytest.raises(InvalidSettings, match="THINKAHEAD_QUEUE_LIMIT"):
        load_settings(["--release", "x"], {"THINKAHEAD_QUEUE_LIMIT": "0"})


def test_every_quantity_carries_its_unit_or_is_a_count() -> None:
    counts = {"port", "queue_limit", "online_prefixes", "copies_limit", "outbox_limit"}
    for name, field in ServiceSettings.model_fields.items():
        if field.annotation in (int, float) and name not in counts:
            assert name.endswith(("_ms", "_hours", "_mb")), name


def test_the_default_precision_is_the_fastest_of_the_machine() -> None:
    """Written out in the settings, which are read before anything heavy is imported."""
    assert ServiceSettings.model_fields["precision"].default == FASTEST
