"""Form of the pages, and the names in them: links, files, settings, examples."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from service.settings import ENV_PREFIX, ServiceSettings
from tests import ROOT
from tests.docs.pages import GENERATED, PAGES, Block, blocks, inline, name_of, read

LOG_PAGES = sorted((ROOT / "docs" / "log").glob("*.md"))
# Folders of the repository; those that begin with a dot may be a run's own.
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
# A reader's own files, and what `make` makes.
NOT_MINE = ("mine", "releases/mine", "docs/files.md")


def by_page(page: Path) -> str:
    return name_of(page)


def slug(heading: str) -> str:
    """Return the anchor that GitHub and MkDocs give a heading."""
    plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def test_the_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= 150


def test_figures_of_the_readme_are_those_of_the_results() -> None:
    """Its tables are generated; these stand in sentences."""
    finish = json.loads((ROOT / "bench/results/finish.json").read_text())["rows"]
    latency = json.loads((ROOT / "bench/results/latency.json").read_text())
    ours, generate = (
        next(
            row["cpu_ms_p50"]
            for row in finish
            if (row["name"], row["history"], row["prefixes"], row["codebook"])
            == (name, 50, 100, 256)
            and row["kept_history"] == row["pruned"] == is_ours
        )
        for name, is_ours in (("native-float32", 1), ("generate", 0))
    )
    half = next(row for row in latency["rows"] if row["name"] == "half")
    text = read(ROOT / "README.md")
    assert f"takes {ours:.2f} ms where `transformers.generate` takes {generate:.0f} ms" in text
    rate = latency["meta"]["saturation_rps"]
    assert (
        f"answers {rate:,} requests a second; at half of that p99 is {half['p99_ms']:.1f} ms"
        in text
    )


@pytest.mark.parametrize("page", LOG_PAGES, ids=by_page)
def test_a_page_of_the_log_is_one_experiment_in_five_parts(page: Path) -> None:
    text = read(page)
    assert len(text.splitlines()) <= 40
    parts = ["Question", "Setup", "Result", "Decision", "Learnt"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == parts
    assert re.match(r"\d{4}-\d\d-\d\d-[a-z0-9-]+$", page.stem)


def test_the_log_names_every_page_once_newest_first() -> None:
    index = read(ROOT / "LOG.md").split("\n## ")[0]
    named = re.findall(r"\]\(docs/log/([^)#]+)\)", index)
    assert sorted(named) == [page.name for page in LOG_PAGES]
    dates = [name[:10] for name in named]
    assert dates == sorted(dates, reverse=True)


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_links_lead_somewhere(page: Path) -> None:
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if "://" in link:
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """A name has a folder of ours in front; it may be a pattern."""
    names = {name for code in inline(page) for name in re.findall(r"^[\w.-]+/[\w./*-]*$", code)}
    ours = {name for name in names if name.split("/")[0] in FOLDERS and name not in NOT_MINE}
    missing = {name for name in ours if not any(ROOT.glob(name.rstrip("/")))}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_names_that_a_page_places_in_a_file_are_there(page: Path) -> None:
    """The pages say "`plan_rungs` in `service/recommend/ladder.py`"."""
    placed = re.findall(r"`([\w.]+)` in\s+`(\w[\w/]*\.py)`", read(page))
    missing = [
        (name, file)
        for name, file in placed
        if not re.search(rf"\b{name.split('.')[-1]}\b", (ROOT / file).read_text())
    ]
    assert missing == []


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: block.page)
def test_json_on_a_page_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.page)
def test_yaml_on_a_page_is_yaml(block: Block) -> None:
    yaml.safe_load(block.text)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.page)
def test_python_on_a_page_imports_what_there_is(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert {alias.name for alias in node.names} <= set(dir(module))


def test_every_setting_of_the_service_is_documented() -> None:
    names = {ENV_PREFIX + field.upper() for field in ServiceSettings.model_fields}
    for document in ("docs/operate-service.md", "deploy/example.env"):
        text = (ROOT / document).read_text()
        assert {name for name in names if not re.search(rf"{name}\b", text)} == set(), document


def test_the_file_map_is_that_of_the_docstrings() -> None:
    tool = ROOT / "docs" / "tools" / "file_map.py"
    done = subprocess.run(
        [sys.executable, str(tool), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_contributing_names_every_folder() -> None:
    """The map of folders; that of files is generated."""
    headings = re.findall(r"^##+ (\w+(?:/\w+)*)$", read(GENERATED), re.MULTILINE)
    text = read(ROOT / "CONTRIBUTING.md")
    assert [name for name in headings if f"`{name}/`" not in text] == []


def test_the_changelog_keeps_to_its_form() -> None:
    """Keep a Changelog 1.1: versions with a date, the newest first, changes in groups."""
    text = read(ROOT / "CHANGELOG.md")
    versions = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert versions[0] == ("Unreleased", "")
    assert all(date for _, date in versions[1:])
    assert project["version"] in {version for version, _ in versions}
    assert len(re.findall("^## ", text, re.MULTILINE)) == len(versions)
    groups = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= groups
