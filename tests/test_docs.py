"""What the documents say is so: commands run, settings and files are named."""

import json
import re
import shlex
import subprocess
import sys
from functools import cache

import pytest

from service.settings import ENV_PREFIX, ServiceSettings
from tests import ROOT

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PACKAGES = ("models", "offline", "service", "training", "bench")


def commands(text: str) -> list[list[str]]:
    """The indented lines of a document that start with `make` or `python -m`, as words."""
    lines = re.findall(r"^    ((?:make|python -m) .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


MAKE_TARGETS = sorted({words[1] for words in commands(README) if words[0] == "make"})
MODULES = [words[2:] for words in commands(README) if words[0] == "python"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


HELP_OF_ALL = """
import contextlib, io, json, runpy, sys
found, code = {}, 0
for words in json.loads(sys.argv[1]):
    sys.argv = [*words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(words[0], run_name="__main__")
        except SystemExit as exc:
            code = exc.code or 0
    found[" ".join(words)] = [code, out.getvalue()]
print(json.dumps(found))
"""


@cache
def helps() -> dict[str, tuple[int, str]]:
    """Exit code and text of the `--help` of every command that the README shows, and of `bench
    quality`. In one process for all: what they import takes seconds, and most import the same."""
    asked = sorted({tuple(command_of(words)) for words in MODULES} | {("bench", "quality")})
    done = run(sys.executable, "-c", HELP_OF_ALL, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, str]] = json.loads(done.stdout)
    return found


def command_of(words: list[str]) -> list[str]:
    """Module and subcommand; training has one parser for all stages."""
    has_subcommand = words[0] != "training" and words[1:] and not words[1].startswith("-")
    return words[: 2 if has_subcommand else 1]


def test_the_readme_has_the_front_door() -> None:
    assert {"demo", "serve", "test", "train", "bench"} <= set(MAKE_TARGETS)
    assert {words[0] for words in MODULES} == {"offline", "service", "training", "bench"}


@pytest.mark.parametrize("target", MAKE_TARGETS)
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    done = run("make", "--dry-run", "--always-make", target)
    assert done.returncode == 0, done.stderr
    assert "python" in done.stdout


@pytest.mark.parametrize("words", MODULES, ids=" ".join)
def test_a_command_of_the_readme_takes_the_options_it_is_shown_with(words: list[str]) -> None:
    """Subcommand and options stand in the command's own --help."""
    code, text = helps()[" ".join(command_of(words))]
    assert code == 0, text
    for option in (word for word in words[1:] if word.startswith("--")):
        assert option in text


def test_the_interface_of_the_benchmark_is_as_agreed() -> None:
    _, text = helps()["bench quality"]
    for option in ("--release", "--data", "--users", "--split", "--json"):
        assert option in text


def test_every_setting_of_the_service_is_documented() -> None:
    documented = README + (ROOT / "deploy" / "example.env").read_text()
    names = {ENV_PREFIX + field.upper() for field in ServiceSettings.model_fields}
    assert {name for name in names if name not in documented} == set()


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "data/beauty/README.md", "deploy/README.md"]
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (ROOT / document).parent.joinpath(target).exists()]
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_map_names_every_file_of_a_package_and_no_other(package: str) -> None:
    section = CONTRIBUTING.split(f"**{package}** - ")[1].split("\n**")[0].split("\n## ")[0]
    named = set(re.findall(r"`(\w+\.py)`", section))
    files = {file.name for file in (ROOT / package).rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == files
