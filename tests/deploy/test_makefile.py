"""The front door: own data get a namespace of their own."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import ROOT


@pytest.mark.parametrize(
    ("words", "environ", "found"),
    [
        ([], {}, ""),
        (["DATA=data/beauty"], {}, ""),
        (["DATA=mine"], {}, "mine"),
        (["DATA=/srv/-My Shop.2026/"], {}, "my-shop-2026"),
        (["DATA=mine", "NAMESPACE="], {}, ""),
        (["DATA=mine"], {"THINKAHEAD_NAMESPACE": "ours"}, "ours"),
    ],
)
def test_own_data_have_a_namespace(
    tmp_path: Path, words: list[str], environ: dict[str, str], found: str
) -> None:
    front = tmp_path / "Makefile"
    front.write_text(
        f"include {ROOT}/Makefile\n"
        "show: export THINKAHEAD_NAMESPACE = $(NAMESPACE)\n"
        "show:\n\t@echo $$THINKAHEAD_NAMESPACE\n"
    )
    done = subprocess.run(
        ["make", "-s", "-f", str(front), "show", *words],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == found.strip(), done.stderr
