"""Both wheels, built and installed: they work outside a clone, each without the other."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SOURCES = ("thinkahead", "models", "offline", "service", "training", "bench", "clients")
EVENTS = "user,item,ts\nann,soap,1\nann,comb,2\nbob,soap,3\n"


def run(*words: str | Path, cwd: Path, home: Path | None = None) -> str:
    environ = {name: value for name, value in os.environ.items() if "THINKAHEAD" not in name}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**environ, "HOME": str(home or cwd), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of both wheels, built from a copy: a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("wheels")
    unwanted = shutil.ignore_patterns("__pycache__", "built", "build", "*.egg-info")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "src" / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "src" / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, folder / "src", folder / "src/clients/python", cwd=folder)
    return folder


def install(wheels: Path, name: str, target: Path) -> Path:
    """Install one wheel beside the libraries of this environment; return the folder of commands."""
    venv.create(target, symlinks=True)
    python = target / "bin" / "python"
    pip = (sys.executable, "-m", "pip", f"--python={python}", "install", "--no-index", "--no-deps")
    run(*pip, *wheels.glob(f"{name}-*.whl"), cwd=wheels)
    (site,) = target.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def test_the_command_works_outside_a_clone(wheels: Path, tmp_path: Path) -> None:
    commands = install(wheels, "think_ahead", tmp_path / "venv")
    place = tmp_path / "elsewhere"
    place.mkdir()
    thinkahead = commands / "thinkahead"
    assert "thinkahead train --data" in run(thinkahead, "--help", cwd=place)
    (place / "events.csv").write_text(EVENTS)
    assert "2 users" in run(thinkahead, "import", "events.csv", "--out", "mine", cwd=place)
    release = ("--release", ROOT / "releases" / "beauty")
    assert "passes the self-test" in run(thinkahead, "serve", "--check", *release, cwd=place)
    assert "embedded server" in run(thinkahead, "status", "--data", "mine", cwd=place)
    assert (place / ".local/state/think-ahead/redis").is_dir()
    assert "--config auto|fast|FILE" in run(thinkahead, "train", "--help", cwd=place)
    run(thinkahead, "kernel", cwd=place)
    code = "from training.recipe_choice import _RUNS; print((_RUNS / 'fast.toml').is_file())"
    assert run(commands / "python", "-c", code, cwd=place) == "True\n"


def test_the_client_needs_nothing_of_the_rest(wheels: Path, tmp_path: Path) -> None:
    commands = install(wheels, "think_ahead_client", tmp_path / "venv")
    code = """
from importlib.util import find_spec
import thinkahead_client
from pathlib import Path
print(find_spec("models"), Path(thinkahead_client.__file__).with_name("py.typed").is_file())
"""
    assert run(commands / "python", "-c", code, cwd=tmp_path) == "None True\n"
