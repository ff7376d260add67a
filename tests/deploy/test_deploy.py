"""Compose file, images and settings of deploy/, checked without a container engine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import ENV_PREFIX, ServiceSettings, load_settings
from tests import ROOT

EXAMPLE = ROOT / "deploy" / "example.env"
_SETTING = re.compile(r"^#?([A-Z_]+)=(.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_compose_file_follows_the_official_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, "docker-compose.yml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_long_running_containers_have_a_health_check_and_jobs_run_once(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    assert {name for name in services if "healthcheck" in services[name]} == {"redis", "service"}
    assert {services[name]["restart"] for name in ("import", "refresh")} == {"no"}


def test_the_service_does_not_wait_for_the_night(compose: dict[str, Any]) -> None:
    """The service answers from lower rungs until the night is done, and starts during an outage."""
    assert set(compose["services"]["service"]["depends_on"]) == {"redis"}
    assert compose["services"]["service"]["depends_on"]["redis"]["condition"] == "service_started"


def test_published_ports_stay_on_the_loopback_interface(compose: dict[str, Any]) -> None:
    ports = [port for spec in compose["services"].values() for port in spec.get("ports", [])]
    assert ports == ["127.0.0.1:8000:8000"]


@pytest.mark.parametrize("name", ["Dockerfile.service", "Dockerfile.offline", "Dockerfile.learner"])
def test_an_image_copies_paths_that_exist_and_reach_the_build(name: str) -> None:
    lines = (ROOT / "deploy" / name).read_text().splitlines()
    copies = [line.split()[1] for line in lines if line.startswith("COPY ")]
    sources = [source for source in copies if not source.startswith("--from=")]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), f"{name} copies {source}"
        reaching = {f"!{source}", *(f"!{folder}" for folder in Path(source).parents)}
        assert reaching & set(ignored), f".dockerignore keeps {source} from the build"


def test_containers_set_only_settings_that_exist(compose: dict[str, Any]) -> None:
    images = "".join(file.read_text() for file in (ROOT / "deploy").glob("Dockerfile.*"))
    found = set(re.findall(rf"({ENV_PREFIX}[A-Z_]+)=", images))
    found |= {key for spec in compose["services"].values() for key in spec.get("environment", {})}
    assert found <= {ENV_PREFIX + field.upper() for field in ServiceSettings.model_fields}


def test_the_example_shows_every_setting_with_its_default() -> None:
    shown = dict(_SETTING.findall(EXAMPLE.read_text()))
    assert set(shown) == {ENV_PREFIX + name.upper() for name in ServiceSettings.model_fields}
    for name, field in ServiceSettings.model_fields.items():
        if field.is_required() or field.default is None:
            continue
        default = str(field.default)
        text = {"()": "[]", "False": "false", "True": "true"}.get(default, default)
        assert shown[ENV_PREFIX + name.upper()] == text


def test_the_example_starts_a_service_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = EXAMPLE.read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert load_settings([], environ).release_dir == Path("releases/beauty")
