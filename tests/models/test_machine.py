"""The description of the machine in a report."""

import platform
from pathlib import Path

import pytest

from models import machine


@pytest.mark.parametrize(
    ("cpuinfo", "named"),
    [
        (
            "model name\t: EPYC\nflags\t: fpu avx2 avx512vl\n\nmodel name: other\n",
            "EPYC ({}, AVX-512)",
        ),
        ("model name\t: EPYC\nflags\t: fpu avx2\n", "EPYC ({}, AVX2)"),
        ("flags: fpu\n", "{}"),
    ],
)
def test_a_processor_is_told_by_name_and_vectors(
    cpuinfo: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor() == platform.machine()  # no such file
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert machine.processor() == named.format(platform.machine())


@pytest.mark.parametrize(
    ("cpuinfo", "has_it"),
    [
        ("flags: avx2 avx512vl\n", False),
        ("flags: avx512vl avx512_bf16\n", True),
        ("Features: fp asimd bf16\n", True),
        ("", False),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(
    cpuinfo: str, has_it: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert machine.has_bfloat16() is has_it
