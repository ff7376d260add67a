"""The kernel is built where there is a compiler, and nothing needs it where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import InvalidRelease
from models.machine import processor_flags
from models.online import build_kernel
from models.online.best_first import NumpySearch
from models.online.finish import Finisher
from models.online.native_runtime import NativeRuntime
from models.online.torch_runtime import TorchRuntime
from tests.fakes.toy import toy_catalog, toy_histories, toy_native, toy_recommender


def test_without_a_compiler_the_build_says_so_and_is_no_failure(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CC"}
    done = subprocess.run(
        [sys.executable, "-m", "models.online.build_kernel"],
        env=environment | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == "no C compiler: the finish stays with ONNX Runtime\n"


def test_a_compiler_that_fails_leaves_no_library_and_shows_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'unknown option' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setattr(build_kernel, "_BUILT", tmp_path / "built")
    assert build_kernel.main() == 0
    assert "unknown option" in capsys.readouterr().err
    assert list((tmp_path / "built").iterdir()) == []
    assert build_kernel.built_library() is None


def test_the_highest_level_that_the_processor_runs_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_kernel, "_BUILT", tmp_path)
    for level in ("x86-64-v3", "x86-64-v4"):
        (tmp_path / f"{level}.so").touch()
    for flags, chosen in (({"avx2", "avx512vl"}, "v4"), ({"avx2"}, "v3")):
        monkeypatch.setattr(build_kernel, "processor_flags", lambda flags=flags: flags)
        assert build_kernel.built_library() == tmp_path / f"x86-64-{chosen}.so"
    monkeypatch.setattr(build_kernel, "processor_flags", frozenset)
    assert build_kernel.built_library() is None


@pytest.mark.parametrize(("width", "heads"), [(32, 2), (48, 4), (40, 1), (72, 2), (128, 1)])
@pytest.mark.parametrize("level", build_kernel._LEVELS)
def test_what_is_built_for_each_level_computes_what_torch_does(
    level: str, width: int, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads of 12 to 128: whole vectors of every width, and their remainders."""
    file = build_kernel._BUILT / f"{level}.so"
    if build_kernel._LEVELS[level] not in processor_flags() or not file.is_file():
        pytest.skip(f"no kernel for {level} here")
    monkeypatch.setattr("models.online.native_runtime.built_library", lambda: file)
    catalog = toy_catalog()
    exact = toy_recommender(catalog, width=width, heads=heads).double()
    native = toy_native(toy_recommender(catalog, width=width, heads=heads))
    expected = Finisher(NumpySearch(TorchRuntime(exact)), catalog)
    found = Finisher(native, catalog)
    for history in toy_histories(catalog, num_users=5):
        tops = [
            each.finish(state, each.own_prefixes(state, count=20), k=10)
            for each, state in ((each, each.encode(history)) for each in (found, expected))
        ]
        assert [item.row for item in tops[0]] == [item.row for item in tops[1]]
        logprobs = [item.logprob for item in tops[1]]
        assert [item.logprob for item in tops[0]] == pytest.approx(logprobs, abs=1e-4)


def test_a_native_runtime_without_a_kernel_names_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.online.native_runtime.built_library", lambda: None)
    recommender = toy_recommender(toy_catalog())
    weights = {name: value.numpy() for name, value in recommender.state_dict().items()}
    with pytest.raises(InvalidRelease, match=r"python -m models\.online\.build_kernel"):
        NativeRuntime(recommender.config, weights)
