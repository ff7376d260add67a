"""`python -m bench scenario`: Locust's simulated users (`locustfile`) on a real service.

Without `--host` it starts a service, with records made without a reasoner (see `population`).
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.common.command_line import add_data, add_release, make_parser
from bench.common.service_process import ServiceProcess, run_module
from bench.load.population import populate
from models.release.release import Release
from models.store.embedded import attach

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.host:
        _run_locust(options, options.host)
        return 0
    with _own_service(options) as host:
        _run_locust(options, host)
    return 0


@contextmanager
def _own_service(options: argparse.Namespace) -> Iterator[str]:
    """Start a service with all users of the data; yield its URL and end it after the block."""
    release = Release.load(options.release)
    with tempfile.TemporaryDirectory(prefix="scenario-") as folder, attach(Path(folder)) as server:
        populate(server.url, options.data, release, num_users=options.known, seed=0)
        command = ["--release", str(options.release), "--redis", server.url]
        with ServiceProcess(command, log=Path(folder) / "service.log") as service:
            service.wait_until_ready()
            yield service.url


def _run_locust(options: argparse.Namespace, host: str) -> None:
    """Run Locust. Raises StepFailedError if it is not installed or if a request failed."""
    run_module(
        "locust",
        "--headless",
        "--only-summary",
        *("--locustfile", str(_LOCUSTFILE)),
        *("--host", host),
        *("--data", str(options.data)),
        *("--users", str(options.users)),
        *("--spawn-rate", str(options.users)),
        *("--run-time", f"{options.seconds}s"),
    )


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("scenario", __doc__)
    add = parser.add_argument
    add("--host", metavar="URL", help="a running service (default: start one)")
    add_release(parser)
    add_data(parser)
    add("--known", type=int, default=20_000, metavar="N", help="users with a record")
    add("--users", type=int, default=10, metavar="N", help="simulated users at a time")
    add("--seconds", type=int, default=20, metavar="S", help="(default: %(default)s)")
    return parser
