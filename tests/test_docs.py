"""What the documents say is so: commands run, settings and files are named."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import ENV_PREFIX, ServiceSettings

ROOT = Path(__file__).parents[1]
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
    arguments = words[1:]
    subcommand = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    if words[0] == "training":
        subcommand = []  # one parser for all stages
    done = run(sys.executable, "-m", words[0], *subcommand, "--help")
    assert done.returncode == 0, done.stderr
    for option in (word for word in arguments if word.startswith("--")):
        assert option in done.stdout


def test_the_interface_of_the_benchmark_is_as_agreed() -> None:
    done = run(sys.executable, "-m", "bench", "quality", "--help")
    for option in ("--release", "--data", "--users", "--split", "--json"):
        assert option in done.stdout


def test_every_setting_of_the_service_is_documented() -> None:
    documented = README + (ROOT / "deploy" / "example.env").read_text()
    names = {ENV_PREFIX + field.upper() for field in ServiceSettings.model_fields}
    assert {name for name in names if name not in documented} == set()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "data/beauty/README.md"])
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
    files = {file.name for file in (ROOT / package).glob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == files
