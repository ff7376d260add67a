"""The notebook: its code runs from the first cell to the last, with the recipe of the tests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

NOTEBOOK = ROOT / "examples" / "from_csv_to_recommendations.ipynb"


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
    return found


def test_it_is_kept_without_outputs_and_compiles() -> None:
    for cell in cells():
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            compile("".join(cell["source"]), str(NOTEBOOK), "exec")
    assert [each["metadata"]["tags"] for each in cells() if each["metadata"]] == [["parameters"]]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_raw_file_becomes_recommendations(tmp_path: Path) -> None:
    parts = []
    for cell in cells():
        if cell["cell_type"] == "code":
            parts.append("".join(cell["source"]))
        if cell["metadata"].get("tags"):
            parts += [f"WORK = Path({str(tmp_path)!r})", "CONFIG = 'training/runs/tiny.toml'"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "400 users" in done.stdout
    assert done.stdout.count("because of") == 5
