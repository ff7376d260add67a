"""A package that only an extra brings is named, in one line, where it is not installed."""

import subprocess
import sys
from importlib import import_module

import pytest

from models.errors import InvalidSettings
from models.extras import needs_extras
from tests import ROOT

WITHOUT = "import runpy, sys; sys.modules[sys.argv.pop(1)] = None; sys.argv.pop(0); "
RUN = "runpy.run_module(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("hdrh", ("bench", "latency", "--help"), "'bench'"),
        ("rich", ("offline", "status"), "'night'"),
        ("torch", ("training", "all", "--data", "none", "--out", "none"), "'train'"),
    ],
)
def test_a_command_says_what_it_lacks(package: str, command: tuple[str, ...], extra: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT + RUN, package, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 78
    (line,) = ran.stderr.splitlines()
    assert line.startswith(command[0])
    assert f"{package} is not installed" in line
    assert extra in line
    assert "make dev" in line


def test_a_missing_module_of_ours_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extras("night"):
        import_module("models.no_such_module")


def test_a_package_is_named_and_not_its_module() -> None:
    expected = "^nothing_like_it is not installed, expected the extra 'a' or 'b'"
    with pytest.raises(InvalidSettings, match=expected), needs_extras("a", "b"):
        import_module("nothing_like_it.at_all")
