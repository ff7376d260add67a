"""Fuzz every route of a running service with schemathesis, all checks on.

    found = fuzz_api("http://127.0.0.1:8000", folder, max_examples=20)
    assert found.is_clean, found.report

Requests follow from the OpenAPI document alone, so a new route is fuzzed too.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

PHASES = ("examples", "coverage", "fuzzing", "stateful")
_CONFIG = """
hooks = "tests.fakes.api_fuzz_hooks"
request-timeout = 30.0

[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "413", "414", "422", "429", "431"]

# A header that a route does not know is ignored. Unknown fields of bodies and queries are refused,
# which tests/service/test_posted.py, test_query_names.py and others make sure of.
[generation]
allow-extra-parameters = false

[output.truncation]
enabled = false
"""
# Where nothing can stand in for the store, a 503 with the time to retry is the right answer.
_WITHOUT_A_STORE = """
[[operations]]
include-path-regex = "(/events/|/v1/users/|/v1/items)"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""


@dataclass(frozen=True)
class Fuzzed:
    is_clean: bool
    report: str


def fuzz_api(
    url: str,
    folder: Path,
    *,
    max_examples: int = 20,
    max_time_s: int | None = None,
    seed: int = 1,
    has_faults: bool = False,
    phases: Sequence[str] = PHASES,
    timeout_s: float = 500,
) -> Fuzzed:
    """max_examples: of each route and phase. max_time_s: go on until then. folder: for its files.

    has_faults: the store may be away, so that routes which need it may answer 503; all others have
    to answer as ever.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "schemathesis.toml"
    config.write_text(_CONFIG + (_WITHOUT_A_STORE if has_faults else ""))
    limits = [] if max_time_s is None else [f"--max-time={max_time_s}"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", f"--config-file={config}"),
            *("run", f"{url}/openapi.json", "--checks=all", f"--phases={','.join(phases)}"),
            *(f"--max-examples={max_examples}", f"--seed={seed}", "--continue-on-failure"),
            *limits,
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Fuzzed(done.returncode == 0, done.stdout + done.stderr)
