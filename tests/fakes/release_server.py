"""Serve each release whose path stands on a line of stdin, in a process that a fault may kill.

`python -m tests.fakes.release_server` prints one line for each: `served`, `refused: WHY`, or
`fault: WHERE` for an exception that no user should see.
"""

import sys
import traceback
from pathlib import Path

from models.errors import ThinkAheadError
from models.online.build_kernel import built_library
from models.online.native_runtime import NATIVE
from models.online.onnx_runtime import ONNX
from models.release.release import Release
from service.recommend.engine import Engine, load_engine, self_test

_HISTORIES = ((0,), (5, 3, 1), tuple(range(40)), ())


def serve(directory: Path) -> None:
    """Load a release as a service does, and rank for a few histories. Raises ThinkAheadError."""
    Release.load(directory).load_codebooks()
    for precision in (ONNX, *([] if built_library() is None else [NATIVE])):
        engine = load_engine(directory, precision=precision)
        self_test(engine)
        for rows in _HISTORIES:
            _rank(engine, [row for row in rows if row < len(engine.catalog)])


def _rank(engine: Engine, rows: list[int]) -> None:
    finisher, state = engine.finisher, engine.encode(rows)
    for prefixes in (engine.global_candidates, finisher.whole):
        for item in finisher.finish(state, prefixes, k=10, exclude=rows):
            assert 0 <= item.row < len(engine.catalog), item


def answer(directory: Path) -> str:
    """Return the line for a release."""
    try:
        serve(directory)
    except ThinkAheadError as exc:
        return f"refused: {exc}"
    except Exception:  # noqa: BLE001 - any other one is what the tests look for
        return f"fault: {traceback.format_exc().splitlines()}"
    return "served"


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # ONNX Runtime prints some of its errors
    for line in sys.stdin:
        answers.write(answer(Path(line.strip())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
