"""The front door: `make` hands a namespace on, and leaves it to the data otherwise."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import ROOT


@pytest.mark.parametrize(
    ("words", "environ", "found"),
    [
        (["DATA=mine"], {}, "unset"),
        (["DATA=mine", "NAMESPACE="], {}, ""),
        (["NAMESPACE=shop"], {"THINKAHEAD_NAMESPACE": "ours"}, "shop"),
        (["DATA=mine"], {"THINKAHEAD_NAMESPACE": "ours"}, "ours"),
    ],
)
def test_a_namespace_is_handed_on(
    tmp_path: Path, words: list[str], environ: dict[str, str], found: str
) -> None:
    front = tmp_path / "Makefile"
    front.write_text(f"include {ROOT}/Makefile\nshow:\n\t@echo $${{THINKAHEAD_NAMESPACE-unset}}\n")
    inherited = {name: value for name, value in os.environ.items() if "NAMESPACE" not in name}
    done = subprocess.run(
        ["make", "-s", "-f", str(front), "show", *words],
        cwd=ROOT,
        env=inherited | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == found, done.stderr
