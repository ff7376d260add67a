"""The chaos command: figures, load stream and, with `-m slow`, every scenario."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.chaos.faults.cpu_quota import _by_signals, hold
from bench.chaos.findings import Bound, Finding, merge, num_failed, seconds_to_normal
from bench.chaos.r9_soak import Sample, slope, sparkline
from bench.common.results import write_json
from bench.load.answer_checks import Questioner, Reply, Truth, num_users_of
from bench.load.http_connection import Address
from bench.load.load_stream import LoadStream
from models.release.release import Release
from tests import ROOT
from tests.fakes.service_harness import toy_release_dir

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="cgroups, /proc, one core each")


def reply(at: float = 0.0, *, status: int = 200, source: str = "personal", **rest: object) -> Reply:
    return Reply("recommend", at, 0.01, status, source=source)._replace(**rest)  # type: ignore[arg-type]


def test_a_bound_says_whether_it_holds() -> None:
    assert Bound("p99 ms", 99.0, "<=", 100).holds
    assert str(Bound("p99 ms", 101.25, "<=", 100)) == "p99 ms 101 <= 100 (!)"
    assert str(Bound("answers", 12345, ">=", 1)) == "answers 12,345 >= 1"
    assert not Bound("failed", 1, "==", 0).holds


def test_one_scenario_again_leaves_the_others_and_counts_flaws_over_all(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    good, bad = [reply()] * 10, [reply(flaws=("foreign", "seen"))]
    fine = [Bound("failed", 0, "==", 0)]
    first = Finding("R1", fine, [{"name": "killed", "p99_ms": 5.0}], good + bad)
    write_json(file, {}, merge(file, first.rows(is_quick=False)))
    second = Finding("R5", [Bound("failed", 2, "==", 0)], [], good)
    write_json(file, {}, merge(file, second.rows(is_quick=False)))
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["R1", "R1.killed", "R5", "R7", "R8"]
    assert [rows[name]["holds"] for name in ("R1", "R5", "R7", "R8")] == ["yes", "NO", "NO", "NO"]
    assert (rows["R7"]["answers"], rows["R7"]["foreign"], rows["R8"]["seen"]) == (21, 1, 1)
    mended = Finding("R1", fine, [], good)
    rows = {row["name"]: row for row in merge(file, mended.rows(is_quick=True))}
    assert list(rows) == ["R1", "R5", "R7", "R8"]
    assert (rows["R7"]["holds"], rows["R8"]["holds"], rows["R7"]["answers"]) == ("yes", "yes", 20)


def test_a_promise_over_all_answers_needs_answers() -> None:
    finding = Finding("R10", [Bound("ready s", 1.0, "<=", 5.0)])
    rows = {row["name"]: row for row in merge(None, finding.rows(is_quick=False))}
    assert (rows["R10"]["holds"], rows["R7"]["holds"]) == ("yes", "NO")


def test_it_is_back_once_answers_are_personal_again_and_not_by_one_lucky_one() -> None:
    down = [reply(at / 100, source="stale", is_degraded=True) for at in range(100)]
    lucky = [reply(0.5)]
    up = [reply(1 + at / 100) for at in range(200)]
    assert seconds_to_normal(down + lucky + up, 0.0, healthy=0.97) == pytest.approx(1.01, abs=0.05)
    assert seconds_to_normal(down, 0.0, healthy=0.97) == pytest.approx(1.0)


def test_no_answer_and_a_5xx_are_failures_and_a_4xx_is_not() -> None:
    found = [reply(status=status) for status in (0, 200, 202, 422, 429, 500, 503)]
    assert num_failed(found) == 3


def test_the_slope_is_that_of_the_line_after_the_warm_up() -> None:
    warm_up = [Sample(float(at), 50.0 + at, 0) for at in range(0, 300, 5)]
    flat = [Sample(float(at), 350.0 + 0.6 * at / 600, 0) for at in range(300, 1800, 5)]
    assert slope([*warm_up, *flat]) == pytest.approx(0.6, abs=1e-6)
    assert sparkline([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert len(sparkline([1.0] * 500)) == 60


@pytest.fixture(scope="module")
def truth() -> Truth:
    release = Release.load(toy_release_dir())
    return Truth(release, {1: 0}, [[] for _ in range(num_users_of(release))])


@contextmanager
def busy_server(*, after_s: float = 0.0) -> Iterator[Address]:
    """Answers 503 to everything."""

    class Busy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(after_s)
            with suppress(OSError):  # the client has gone
                self.send_response(503)
                self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Address("127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.system
def test_a_stream_asks_at_its_rate_until_it_is_stopped(truth: Truth) -> None:
    with busy_server() as address:
        questioner = Questioner(truth, event_share=0.0)
        with LoadStream(address, questioner, rate=300) as load:
            time.sleep(1.0)
        num = len(load.replies)
        time.sleep(0.1)
    assert len(load.replies) == num
    assert 200 < num < 400
    assert {(each.status, each.has_retry_after) for each in load.replies} == {(503, True)}


@pytest.mark.system
def test_what_is_not_answered_in_time_is_given_up_with_all_behind_it(truth: Truth) -> None:
    with busy_server(after_s=0.3) as address:
        questioner = Questioner(truth, event_share=0.0)
        stream = LoadStream(address, questioner, rate=100, num_connections=2, patience_s=0.1)
        with stream as load:
            time.sleep(0.5)
    assert len(load.replies) > 20
    assert {each.status for each in load.replies} == {0}
    assert max(each.latency_s for each in load.replies) < 1.0


@pytest.mark.system
def test_a_stream_without_a_server_is_an_error(truth: Truth) -> None:
    nobody = Address("127.0.0.1", 1)
    with pytest.raises(OSError, match="Connect"), LoadStream(nobody, Questioner(truth), rate=10):
        pass


@pytest.mark.system
@pytest.mark.parametrize(("rate", "num_connections"), [(0, 1), (10, 0)])
def test_a_stream_that_would_never_end_is_an_error(
    truth: Truth, rate: float, num_connections: int
) -> None:
    nobody, questioner = Address("127.0.0.1", 1), Questioner(truth)
    with pytest.raises(ValueError, match="both above 0"):
        LoadStream(nobody, questioner, rate=rate, num_connections=num_connections)


_BURN = "import time\nprint(flush=True)\nwhile True: pass"


def burn(*, by_signals: bool) -> float:
    """Share of a core that a busy process gets when held to a fifth."""
    with subprocess.Popen([sys.executable, "-c", _BURN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with _by_signals(process.pid, 0.2) if by_signals else hold(process.pid, 0.2):
                spent, began_at = cpu_s(process.pid), time.monotonic()
                time.sleep(1.0)
                return (cpu_s(process.pid) - spent) / (time.monotonic() - began_at)
        finally:
            process.kill()


def cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / 100


@pytest.mark.system
@on_linux
@pytest.mark.parametrize("by_signals", [False, True])
def test_a_held_process_gets_its_share_and_no_more(by_signals: bool) -> None:
    assert 0.02 < burn(by_signals=by_signals) < 0.35


@on_linux
def test_a_release_that_is_none_is_one_line_and_exit_78(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "chaos", "--only", "R10", "--release", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr


@on_linux
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_scenario_runs_and_no_answer_is_anybody_elses(tmp_path: Path) -> None:
    """Times mean nothing in so short a run; forbidden events must not happen here either."""
    file = tmp_path / "chaos.json"
    names = ["R1", "R2", "R3", "R4", "R5", "R7", "R10"]
    subprocess.run(
        [
            *(sys.executable, "-m", "bench", "chaos", "--quick", "--json", str(file)),
            *("--only", *names),
        ],
        cwd=ROOT,
        check=False,
    )
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    assert {*names, "R8"} <= rows.keys()
    assert rows["R7"]["answers"] > 1000
    assert rows["R7"]["holds"] == rows["R8"]["holds"] == "yes"
    assert (rows["R1"]["failed"], rows["R2"]["failed"], rows["R5"]["failed"]) == (0, 0, 0)
