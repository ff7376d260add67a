"""Settings of the service: the order of sources, and one line for each error."""

from pathlib import Path

import pytest

from models.errors import InvalidSettings
from models.release.searchers import FASTEST
from service.settings import (
    ServiceSettings,
    is_loopback,
    load_settings,
    mask_url,
    resolve_settings,
)


def test_arguments_win_over_the_environment_and_that_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {"THINKAHEAD_PORT": "9001", "THINKAHEAD_HOST": "::1", "PATH": "/bin"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(["--release", "somewhere", "--port", "9002"], environ)
    assert settings.release_dir == Path("somewhere")
    assert (settings.port, settings.host, settings.redis_timeout_ms) == (9002, "::1", 20)


def test_a_live_folder_needs_no_release() -> None:
    settings = load_settings(["--live", "somewhere"], {})
    assert (settings.live_dir, settings.release_dir) == (Path("somewhere"), None)


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
    counts = {
        "port",
        "workers",
        "queue_limit",
        "online_prefixes",
        "copies_limit",
        "outbox_limit",
        "event_log_limit",
        "rung_share",
    }
    for name, field in ServiceSettings.model_fields.items():
        if field.annotation in (int, float) and name not in counts:
            assert name.endswith(("_ms", "_minutes", "_hours", "_mb", "_nats")), name


def test_the_default_precision_is_the_fastest_of_the_machine() -> None:
    """Written out in the settings, which are read before anything heavy is imported."""
    assert ServiceSettings.model_fields["precision"].default == FASTEST


def write_config(folder: Path, text: str) -> Path:
    file = folder / "service.yaml"
    file.write_text(text)
    return file


def test_the_environment_wins_over_the_file_and_that_over_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = write_config(
        tmp_path,
        "release_dir: of-file\nport: 9001\nqueue_limit: 3\nmode: union\nredis_timeout_ms: 7\n",
    )
    environ = {"THINKAHEAD_CONFIG": str(file), "THINKAHEAD_QUEUE_LIMIT": "4"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    effective = resolve_settings(["--port", "9002"], environ)
    settings = effective.settings
    assert (settings.port, settings.queue_limit, settings.redis_timeout_ms) == (9002, 4, 7)
    assert (settings.release_dir, settings.mode) == (Path("of-file"), "union")
    assert {name: effective.origins[name] for name in ("port", "queue_limit", "mode", "host")} == {
        "port": "command line",
        "queue_limit": "environment THINKAHEAD_QUEUE_LIMIT",
        "mode": str(file),
        "host": "default",
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("redis_timeout: 20", r"service.yaml: redis_timeout is not.*did you mean redis_timeout_ms"),
        ("config: other.yaml", "service.yaml: config is not a setting"),
        ("1: 2", "service.yaml: 1 is not a setting"),
        ("port: many", r"service.yaml: port: .*integer"),
        ("port: on", r"service.yaml: port: expected a number, got true"),
        ("redis_timeout_ms: 20ms", r"service.yaml: redis_timeout_ms: .*integer"),
        ("redis_timeout_ms: 0", r"service.yaml: redis_timeout_ms: .*greater than or equal to 1"),
        ("port: 1\nhost: a\nport: 2", r"service.yaml:1: the key port is repeated"),
        ("- port", "service.yaml: expected a mapping"),
        ("port: [", "service.yaml:1: "),
        ("port: !!python/object/apply:os.getcwd []", "service.yaml:1: could not determine"),
        ("port: 2026-99-99", "service.yaml: cannot be read as YAML"),
        ("[" * 100_000, "service.yaml"),
    ],
)
def test_a_bad_file_is_one_line_that_names_file_and_key(
    tmp_path: Path, text: str, named: str
) -> None:
    file = write_config(tmp_path, text)
    with pytest.raises(InvalidSettings, match=named) as caught:
        load_settings(["--release", "x", "--config", str(file)], {})
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"none.yaml: cannot be read: No such file"):
        load_settings(["--release", "x", "--config", str(tmp_path / "none.yaml")], {})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("rediss://ann:s3cret@host:1?cluster=true", "rediss://ann:***@host:1?cluster=true"),
        ("redis://:s3cret@host", "redis://:***@host"),
        ("redis://host?password=s3cret&db=1", "redis://host?password=***&db=1"),
    ],
)
def test_a_password_in_a_url_is_not_shown(url: str, shown: str) -> None:
    assert mask_url(url) == shown
    assert ServiceSettings(release_dir=Path("x"), redis_url=url).masked()["redis_url"] == shown


@pytest.mark.parametrize(
    ("host", "is_so"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")),
    ],
)
def test_which_hosts_are_this_machine_alone(host: str, is_so: bool) -> None:
    assert is_loopback(host) is is_so
