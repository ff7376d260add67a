"""The site: built from the pages with every link sound, and nothing in it from elsewhere."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import ROOT

DOCS_PYTHON = ROOT / ".venv-docs" / "bin" / "python"
PYTHON = str(DOCS_PYTHON) if DOCS_PYTHON.exists() else sys.executable


@pytest.mark.skipif(
    not DOCS_PYTHON.exists() and find_spec("mkdocs") is None, reason="`make docs` installs MkDocs"
)
def test_the_site_builds_and_fetches_nothing(tmp_path: Path) -> None:
    for command in (
        ["-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        [str(ROOT / "docs" / "tools" / "check_site.py"), str(tmp_path / "site")],
    ):
        done = subprocess.run(
            [PYTHON, *command],
            cwd=ROOT,
            env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_docs_lock_agrees_with_the_other_locks() -> None:
    pins: dict[str, set[str]] = {}
    for lock in ("requirements.lock", "requirements-dev.lock", "requirements-docs.lock"):
        for line in (ROOT / lock).read_text().splitlines():
            if not line.startswith("#"):
                name, _, version = line.partition("==")
                pins.setdefault(name.lower().replace("_", "-"), set()).add(version.split(";")[0])
    assert {name: found for name, found in pins.items() if len(found) > 1} == {}
