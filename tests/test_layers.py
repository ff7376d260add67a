"""Order of folders and modules inside each package: no arrow upward, no circle, no twin names."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

# From the bottom up. A folder or module imports only itself and names on earlier lines.
LAYERS = {
    "models": (
        {"errors", "program"},
        {"extras", "machine", "durable", "lease", "ids"},
        {"intake"},
        {"catalog"},
        {"store", "online", "reasoner", "baselines"},
        {"release", "log", "night", "wishes"},
    ),
    "service": (
        {"sources", "problems", "config_file"},
        {"telemetry"},
        {"users", "limits", "auth"},
        {"recommend"},
        {"settings"},
        {"reload", "server", "workers"},
        {"follow"},
        {"serving", "check"},
        {"api"},
        {"explore"},
        {"app"},
        {"admin"},
        {"process"},
        {"__main__"},
    ),
    "offline": (
        {"settings", "disk"},
        {"plan", "progress"},
        {"think"},
        {"check"},
        {"live"},
        {"refresh"},
        {"commands"},
        {"__main__"},
    ),
    "thinkahead": (
        {"commands", "words"},
        {
            "help_page",
            "train",
            "serve",
            "night",
            "learn",
            "status_page",
            "kernel",
            "on_demand",
            "completion",
            "library",
        },
        {"__main__"},
    ),
    "bench": (
        {"common"},
        {"load", "quality", "ab", "tables", "demo"},
        {"finish", "night", "chaos", "table1", "freshness", "reasons", "wishes"},
        {"__main__"},
    ),
}
PACKAGES = (*LAYERS, "training")  # training is flat
# File names that occur twice, and mean the same in each package.
TWINS = {
    "cli.py": "the command line of a tier",
    "progress.py": "progress on standard error",
    "settings.py": "the settings of a process",
}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module; a folder's `__init__` has the folder's name."""
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


@cache
def arrows(package: str) -> dict[str, set[str]]:
    """The modules of the package that each of its modules imports, also inside functions."""
    known = dict(modules(package))
    found: dict[str, set[str]] = {}
    for name, file in known.items():
        imported: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                imported |= {each if each in known else node.module for each in names}
        found[name] = {each for each in imported & known.keys() if each not in {name, package}}
    return found


def level_of(package: str, name: str) -> int:
    part = name.split(".")[1]
    levels = [at for at, names in enumerate(LAYERS[package]) if part in names]
    assert len(levels) == 1, f"{name}: name {part!r} once in LAYERS"
    return levels[0]


@pytest.mark.parametrize("package", LAYERS)
def test_no_arrow_leads_upward_or_sideways(package: str) -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in arrows(package).items()
        for other in sorted(others)
        if name != package
        and name.split(".")[1] != other.split(".")[1]
        and level_of(package, other) >= level_of(package, name)
    ]
    assert upward == []


@pytest.mark.parametrize("package", LAYERS)
def test_the_layers_name_every_folder_and_module_once(package: str) -> None:
    parts = {name.split(".")[1] for name, _ in modules(package) if name != package}
    assert sorted(each for names in LAYERS[package] for each in names) == sorted(parts)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    try:
        TopologicalSorter(arrows(package)).prepare()
    except CycleError as exc:
        pytest.fail(" imports ".join(reversed(exc.args[1])))


def test_no_two_files_of_one_name_mean_different_things() -> None:
    names = [
        file.name
        for package in PACKAGES
        for _, file in modules(package)
        if file.name not in {"__init__.py", "__main__.py"}
    ]
    assert {name for name in names if names.count(name) > 1} == set(TWINS)
