"""The table of commands: help, unknown words, defaults, completion, and what an import costs."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import ROOT
from thinkahead.__main__ import main
from thinkahead.commands import COMMANDS, FIRST
from thinkahead.completion import OPTIONS, script
from thinkahead.learn import learn_words
from thinkahead.night import import_words, refresh_words
from thinkahead.words import has, value_of, with_namespace, without


def test_the_help_shows_the_first_commands_with_an_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    first, more = text.split("more:")
    assert [name for name in FIRST if COMMANDS[name].example in first] == list(FIRST)
    assert [name for name in COMMANDS if name not in FIRST and f"  {name} " not in more] == []


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 64
    assert capsys.readouterr().err == "thinkahead: no command 'trian'; did you mean train?\n"
    assert main(["xyzzy"]) == 64
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_leads_to_a_module(name: str) -> None:
    assert find_spec(COMMANDS[name].module) is not None
    assert COMMANDS[name].example.split("thinkahead ")[1].split()[0].rstrip(')"') == name


def test_help_and_completion_import_nothing_of_a_tier() -> None:
    code = (
        "import sys; from thinkahead.__main__ import main; main(['--help']); "
        "main(['completion', 'bash']); main(['nigth']); "
        "print(sorted({'numpy', 'torch', 'pydantic', 'rich', 'redis'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_night_takes_all_users_and_goes_on_unless_told_otherwise() -> None:
    night = ["--release", "r"]
    assert refresh_words(night) == ["refresh", *night, "--users", "all", "--resume"]
    assert refresh_words([*night, "--data", "d", "--users=3", "--dry-run"]) == [
        *("refresh", *night, "--users=3", "--dry-run", "--attributes", "d")
    ]
    assert import_words("d", [*night, "--redis=unix:///x"]) == [
        *("import", "--data", "d", "--redis", "unix:///x", "--release", "r")
    ]


def test_a_learner_follows_into_the_folder_of_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINKAHEAD_STATE_DIR", "/state")
    monkeypatch.delenv("THINKAHEAD_NAMESPACE", raising=False)
    words = learn_words(["--release", "releases/mine/", "--data", "d", "--work", "w"])
    assert words[4:] == [
        *("--work", "w", "--namespace", "d", "--follow", "--live", "/state/mine.live"),
        *("--erased", "/state/generations-d"),
    ]
    assert "--follow" not in learn_words(["--release", "r", "--once"])


def test_data_name_the_namespace_unless_the_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THINKAHEAD_NAMESPACE", raising=False)
    words = ["--release", "r", "--data", "/srv/My Shop"]
    assert with_namespace(words) == [*words, "--namespace", "my-shop"]
    assert with_namespace([*words, "--namespace=x"]) == [*words, "--namespace=x"]
    assert with_namespace(["--release", "r"]) == ["--release", "r"]
    monkeypatch.setenv("THINKAHEAD_NAMESPACE", "")
    assert with_namespace(words) == words


def test_options_are_found_in_both_forms() -> None:
    words = ["--data", "a", "--release=b", "--data=c"]
    assert value_of(words, "--data") == "c"
    assert value_of(words, "--release") == "b"
    assert value_of(words, "--out") is None
    assert without(words, "--data") == ["--release=b"]
    assert has(words, "--release")
    assert not has(words, "--rel")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["thinkahead", "ni"], {"night"}),
        (["thinkahead", "night", "roll"], {"rollback"}),
        (["thinkahead", "serve", "--release", "x", "--da"], {"--data"}),
        (["thinkahead", "train", "--config", ""], set()),  # then files, by `-o default`
    ],
)
def test_bash_completes(typed: list[str], expected: set[str], tmp_path: Path) -> None:
    file = tmp_path / "completion.bash"
    file.write_text(script("bash"))
    code = f'source {file}; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _thinkahead; '
    done = subprocess.run(
        ["bash", "-c", code + 'printf "%s\\n" "${COMPREPLY[@]}"', "-", *typed],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == expected


def test_zsh_and_fish_know_every_command_and_option() -> None:
    options = json.loads(OPTIONS.read_text())
    assert set(options) == set(COMMANDS)
    for shell in ("zsh", "fish"):
        text = script(shell)
        missing = [
            word
            for words in options.values()
            for word in words
            if (word if shell == "zsh" else word.removeprefix("--")) not in text
        ]
        assert missing == []
