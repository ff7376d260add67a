"""Hostile releases: any size, tensor, column or byte is altered, with the digests right again.

A release is served or refused in one line. It never ends the process, as an address outside a
tensor does.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from safetensors.numpy import load_file, save_file

from models.release.release import Release
from tests.fakes.hostile_release import Alteration, alterations, rewrite_digests

Try = Callable[[Alteration], str]

ONLINE, MANIFEST = "online.safetensors", "manifest.json"


class ReleaseServer:
    """The process that loads and serves, begun again after its end."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def serve(self, directory: Path) -> str:
        """Return the line of the process. Fails the test with its traceback if it ends."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.release_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(f"{directory}\n")
        process.stdin.flush()
        if not (line := process.stdout.readline()):
            errors = process.stderr.read()
            self.stop()
            pytest.fail(f"ended with {process.returncode}:\n{errors[-2000:]}")
        return line.strip()

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    server = ReleaseServer()
    yield server.serve
    server.stop()


@pytest.fixture
def attempt(release: Release, tmp_path: Path, serve: Callable[[Path], str]) -> Try:
    """Serve an altered copy of the toy release."""
    copy = tmp_path / "copy"

    def attempt(alter: Alteration) -> str:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(release.directory, copy)
        alter(copy)
        rewrite_digests(copy)
        return serve(copy)

    return attempt


def with_tensor(name: str, shape: tuple[int, ...]) -> Alteration:
    """Replace a tensor of the online recommender by zeros of another shape."""

    def alter(directory: Path) -> None:
        held = load_file(directory / ONLINE)
        assert held[name].shape != shape
        save_file(held | {name: np.zeros(shape, dtype=np.float32)}, directory / ONLINE)

    return alter


def with_size(name: str, value: float, of: str = "recommender") -> Alteration:
    """Replace a size of the online recommender, or of another part, in the manifest."""

    def alter(directory: Path) -> None:
        file = directory / MANIFEST
        manifest = json.loads(file.read_text())
        manifest[of][name] = value
        file.write_text(json.dumps(manifest))

    return alter


def with_file(name: str, text: str) -> Alteration:
    """Add a file, or replace one."""

    def alter(directory: Path) -> None:
        (directory / name).write_text(text)

    return alter


def with_graph(change: Callable[[onnx.ModelProto], None]) -> Alteration:
    def alter(directory: Path) -> None:
        model = onnx.load(directory / "extend.onnx", load_external_data=False)
        change(model)
        (directory / "extend.onnx").write_bytes(model.SerializeToString())

    return alter


def point_outside(model: onnx.ModelProto) -> None:
    """Take a weight from a file outside the release."""
    weight = next(each for each in model.graph.initializer if each.external_data)
    next(pair for pair in weight.external_data if pair.key == "location").value = "/etc/passwd"


def swap_outputs(model: onnx.ModelProto) -> None:
    """Give the logits of two levels each other's names."""
    names = {"logits_1": "logits_2", "logits_2": "logits_1"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]


@pytest.mark.parametrize(
    ("alter", "why"),
    [
        (with_tensor("queries.0.weight", (4096, 32)), "queries.0.weight: F32 (4096, 32)"),
        (with_tensor("layers.0.qkv.weight", (200_000, 32)), "F32 (200000, 32), expected"),
        (with_tensor("layers.1.mlp.up.weight", (60_000, 32)), "expected F32 (64, 32)"),
        (with_tensor("start", (1,)), "start: F32 (1,), expected F32 (32,)"),
        (with_size("width", 2**20), "recommender: Value error, width 1048576, expected 1..4096"),
        (with_size("heads", 0), "heads 0, expected 1..256"),
        (with_size("heads", 3), "width 32, expected a multiple of 3 heads"),
        (with_size("width", 64), "F32 (8, 32), expected F32 (8, 64)"),
        (with_size("depth", 3), "recommender.depth: Unexpected keyword argument"),
        (with_size("recent", 2**62, "memory"), "recent 4611686018427387904, expected 1..1024"),
        (with_file("more.bin", "x"), "more.bin: not in the manifest"),
        (with_file("reasoner/config.json", '{"auto_map": {}}'), "auto_map names code"),
        (with_file("reasoner/config.json", "[" * (2**20 + 1)), "1,048,577 bytes"),
        (with_graph(point_outside), "Absolute path not allowed"),
        (with_graph(swap_outputs), "extend.onnx: results of shapes"),
    ],
)  # fmt: skip
def test_an_attack_is_refused_in_one_line(attempt: Try, alter: Alteration, why: str) -> None:
    answer = attempt(alter)
    assert answer.startswith("refused: ")
    assert why in answer


def test_the_release_itself_is_served(attempt: Try) -> None:
    assert attempt(lambda directory: None) == "served"


def _check(attempt: Try, alter: Alteration) -> None:
    answer = attempt(alter)
    assert answer == "served" or answer.startswith("refused: ")


FUZZ = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@given(alter=alterations())
@settings(FUZZ, max_examples=100, derandomize=True)
def test_an_altered_release_is_served_or_refused(attempt: Try, alter: Alteration) -> None:
    _check(attempt, alter)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(alter=alterations())
@settings(FUZZ, max_examples=2000)
def test_two_thousand_altered_releases(attempt: Try, alter: Alteration) -> None:
    _check(attempt, alter)
