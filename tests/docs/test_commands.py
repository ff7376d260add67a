"""Commands on the pages: they work when pasted, and have the options that are shown."""

import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from docs.tools.option_table import option_table
from models.catalog.dataset import load_dataset
from tests import ROOT
from tests.docs.pages import GENERATED, PAGES, commands, inline, lines, name_of
from thinkahead.commands import COMMANDS
from thinkahead.completion import OPTIONS

GROUPS = ("serve", "night", "learn", "bench")  # of thinkahead, with commands of their own
# Commands of training with a parser each.
LEARNER = (("learn",), ("roll-back",), ("canary",), ("reason-day",), ("tasks",))
OURS = ("models", "offline", "service", "training", "bench", "thinkahead")
PYTHON, THINKAHEAD = ".venv/bin/python", ".venv/bin/thinkahead"
MAKE_TARGETS = sorted(
    {
        word
        for _, words in commands("make")
        for word in words[1:]
        if word[0].isalpha() and "=" not in word
    }
)
MODULES = sorted(
    {
        tuple(words[2:])
        for _, words in commands(PYTHON)
        if len(words) > 2 and words[1] == "-m" and words[2] != "..."
    }
    | {("thinkahead", *words[1:]) for _, words in commands(THINKAHEAD) if words[1] != "..."}
)
FRONT_DOOR = {("offline",), *(("thinkahead", name) for name in COMMANDS)}
HELP_OF_ALL = """
import contextlib, io, json, runpy, sys
found, code = {}, 0
for words in json.loads(sys.argv[1]):
    sys.argv = [*words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as exc:
            code = exc.code or 0
    found[" ".join(words)] = [code, out.getvalue()]
print(json.dumps(found))
"""


@cache
def helps() -> dict[str, tuple[int, str]]:
    """Exit code and text of the `--help` of every command on the pages, and of `thinkahead`.

    In one process: imports take seconds, and most commands import the same.
    """
    asked = sorted({command_of(words) for words in MODULES if has_help(words)} | FRONT_DOOR)
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, json.dumps(asked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, str]] = json.loads(done.stdout)
    return found


def has_help(words: tuple[str, ...]) -> bool:
    return words[0].split(".")[0] in OURS and words[0] != "models.online.build_kernel"


def command_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """Module or `thinkahead`, and subcommand; training has one parser for all of its stages."""
    if words[0] == "thinkahead":
        return words[: 3 if words[1] in GROUPS and words[2:3] and words[2][0].isalpha() else 2]
    has_subcommand = words[1:] and not words[1].startswith("-")
    is_stage = words[0] == "training" and words[1:2] not in LEARNER
    return words[: 2 if has_subcommand and not is_stage else 1]


def test_the_readme_has_the_front_door() -> None:
    named = {word for page, words in commands("make") if page == "README.md" for word in words}
    assert {"demo", "serve", "test", "bench", "docs"} <= named
    front = {words[1] for page, words in commands(THINKAHEAD) if page == "README.md"}
    assert {"train", "night", "serve"} <= front


def test_the_pages_show_every_tier() -> None:
    assert {"offline", "service", "bench"} <= {words[0] for words in MODULES}
    assert {"train", "learn"} <= {words[1] for words in MODULES if words[0] == "thinkahead"}


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED], ids=name_of)
def test_a_command_says_which_python_runs_it(page: Path) -> None:
    """`python -m ...` fails, or runs another Python, on most machines."""
    bare = re.compile(r"(?<![\w/.-])(?<!-m )(?:python3? -m|pytest|mkdocs|ruff|mypy) \S")
    shown = [*lines(page), *inline(page)]
    assert [code for code in shown if bare.search(code)] == []


@pytest.mark.parametrize("target", MAKE_TARGETS)
def test_a_make_target_exists(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_commands_take_the_options_they_are_shown_with() -> None:
    """Subcommand and options stand in the command's own --help.

    One test, so that one process of pytest asks for all of them.
    """
    found = helps()
    wrong = []
    for words in MODULES:
        if not has_help(words):
            wrong += [words] if find_spec(words[0]) is None else []
            continue
        code, text = found[" ".join(command_of(words))]
        options = [word for word in words[1:] if word.startswith("--") and word != "--help"]
        missing = [option for option in options if not re.search(rf"{option}\b", text)]
        wrong += [(*words, f"exit {code}", *missing)] if code or missing else []
    assert wrong == []
    _, text = found["bench quality"]
    agreed = ("--release", "--data", "--users", "--split", "--json")
    assert [option for option in agreed if option not in text] == []


def test_tab_completes_the_options_of_every_help() -> None:
    found = {name: helps()[f"thinkahead {name}"][1] for name in COMMANDS}
    assert json.loads(OPTIONS.read_text()) == option_table(found, helps()["offline"][1])


def shell_lines() -> list[str]:
    """Return the lines of all pages that a reader pastes into a shell."""
    first = (
        PYTHON,
        THINKAHEAD,
        "make ",
        "curl ",
        "sh ",
        "docker ",
        "kubectl ",
        "helm ",
        "taskset ",
    )
    return [line for page in PAGES for line in lines(page) if line.startswith((*first, "PIP_"))]


def test_shell_lines_are_shell() -> None:
    script = "\n".join(shell_lines())
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_files_that_commands_read_exist() -> None:
    named = {word for line in shell_lines() for word in shlex.split(line, comments=True)}
    ours = {word for word in named if re.fullmatch(r"(data|deploy|training|bench)/[\w./-]+", word)}
    assert {name for name in ours if not (ROOT / name).exists()} == {
        "deploy/think-ahead"
    }  # of kubectl


def test_csv_files_become_a_data_folder(tmp_path: Path) -> None:
    """Run the command of README.md on three users."""
    (words,) = [
        words
        for page, words in commands(THINKAHEAD)
        if page == "README.md" and words[1] == "import"
    ]
    rows = "".join(f"u{user},{item},{item}\n" for user in range(3) for item in range(4))
    (tmp_path / "events.csv").write_text(f"user_id,item_id,pos\n{rows}")
    items = "".join(f"{item},Soap {item},Beauty > Bath\n" for item in range(4))
    (tmp_path / "products.csv").write_text(f"sku,name,category\n{items}")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "thinkahead", *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, env=environ, check=False)
    assert done.returncode == 0
    dataset = load_dataset(tmp_path / "mine")
    assert sorted(dataset.histories) == ["u0", "u1", "u2"]
    assert dataset.items["3"].categories == ("Beauty", "Bath")
