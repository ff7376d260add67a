"""`thinkahead train`: all stages by default. In a clone it first installs what training needs."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from models.store.embedded import PROJECT_ROOT
from thinkahead.words import is_subcommand

_NEEDED = ("sentence_transformers", "sklearn", "onnx")  # of the extra `train`


def main(arguments: Sequence[str]) -> int:
    if "-h" not in arguments and "--help" not in arguments and (code := _install()):
        return code
    from training.__main__ import main as train

    return train(arguments if is_subcommand(arguments) else ["all", *arguments])


def _install() -> int:
    """Run `make dev` if this is the environment of a clone that only serves so far."""
    lacks = [name for name in _NEEDED if find_spec(name) is None]
    in_clone = Path(sys.prefix) == PROJECT_ROOT / ".venv" and (PROJECT_ROOT / "Makefile").is_file()
    if not lacks or not in_clone:
        return 0
    print("thinkahead train: the packages for training are missing, running `make dev` (once)")
    return subprocess.run(["make", "-C", str(PROJECT_ROOT), "dev"], check=False).returncode
