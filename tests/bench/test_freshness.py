"""Freshness: the version that has an event, and the time until every process answers with it."""

import json
import shutil
from pathlib import Path

import pytest

from bench.common.results import Row
from bench.freshness.event_delays import Posted, Seen, count_delays, weight_delays
from bench.freshness.live_versions import LiveVersions, Place, Version, find_version
from bench.freshness.slice_lines import fate_of, read_lines
from bench.freshness.steady_load import Tally
from bench.load.http_connection import Answer
from models.errors import InvalidRelease
from models.release.delta import Delta, DeltaHeader
from models.release.live import LiveFolder
from tests.fakes.service_harness import toy_release_dir

BASE = "0123456789ab"
POSTED = [Posted("a", 10.0), Posted("b", 11.0)]


def line(until: int, outcome: str, published: int | None, **more: object) -> str:
    fields: dict[str, object] = {"until": f"{until}-0", "outcome": outcome, "items": 0, "loss": 1.0}
    if published is not None:
        fields["published"] = f"{BASE}+{published}"
    return json.dumps(fields | more) + "\n"


def test_weights_hold_an_event_from_the_first_verdict_after_its_slice(tmp_path: Path) -> None:
    """The verdict in the line of a slice is about the slices before it."""
    file = tmp_path / "slices.jsonl"
    lines = [
        line(10, "nothing", 1),
        line(20, "accepted", 2),
        line(30, "waiting", 3),
        line(40, "refused", 4),
        line(50, "accepted", 5, slow="a finish takes long"),
        line(60, "waiting", 6),
        line(70, "accepted", None),
        line(80, "waiting", 8),
        '{"until": "90-0", "outco',  # still being written
    ]
    file.write_text("".join(lines))
    read = read_lines(file)
    assert len(read) == len(lines) - 1
    fates = {at: fate_of((at, 0), read) for at in (1, 10, 11, 20, 21, 30, 31, 40, 41, 80, 81)}
    assert fates[1] == fates[10] == Version(BASE, 2)
    # Learnt with slices 20 and 30; the candidate was refused at 40, before it learnt 40.
    assert fates[11] == fates[20] == fates[21] == fates[30] == "dropped"
    # Accepted at 50 and too slow to publish; 70 was not published at once.
    assert fates[31] == fates[40] == fates[41] == Version(BASE, 8)
    assert fates[80] == fates[81] == "open"
    poisoned = json.loads(line(10, "nothing", 1))
    del poisoned["loss"]
    file.write_text(json.dumps(poisoned) + "\n" + line(20, "accepted", 2))
    assert fate_of((5, 0), read_lines(file)) == "dropped"


def test_an_event_is_seen_when_the_last_process_answers_with_it() -> None:
    first = [Seen(9.0, Place(0, 1), (5, 0)), Seen(11.5, Place(0, 2), (7, 0))]
    second = [*first[:1], Seen(12.0, Place(0, 2), (7, 0)), Seen(13.0, Place(4, 0), (9, 0))]
    counted = count_delays(POSTED, {"a": (6, 3), "b": (9, 0)}, [first, second])
    assert (counted.seconds, counted.num_unseen) == ([2.0], 1)
    learnt = weight_delays(POSTED, {"a": Place(0, 2), "b": "dropped"}, [first, second])
    assert (learnt.seconds, learnt.num_dropped, learnt.num_unseen) == ([2.0], 1, 0)
    assert weight_delays(POSTED, {"a": "open"}, [first, second]).num_unseen == 2
    assert learnt.row("weights", bar_s=5)["holds"] == "yes"
    assert learnt.row("weights", bar_s=1)["holds"] == "NO"
    assert counted.row("counts", bar_s=5)["holds"] == "NO"
    assert "p99_s" not in weight_delays(POSTED, {}, [first]).row("weights", bar_s=5)


def test_an_answer_names_one_version() -> None:
    assert find_version(b'{"release":"beauty@0123456789ab+17","n":1}') == Version(BASE, 17)
    assert find_version(b'{"release": "beauty@0123456789ab"}') == Version(BASE, 0)
    assert find_version(b'{"release":"beauty"}') is None
    assert find_version(b'{"release":"a@0123456789ab","release":"a@0123456789ab"}') is None


def test_versions_are_read_from_a_live_folder(tmp_path: Path) -> None:
    live = LiveFolder(tmp_path / "live")
    first = live.publish_base(toy_release_dir()).version
    header = DeltaHeader(base=first, number=1, parent="", watermark="17-3", made_ms=1)
    live.add_delta(Delta(header, None, None))
    grown = shutil.copytree(toy_release_dir(), tmp_path / "grown")
    manifest = json.loads((grown / "manifest.json").read_text())
    manifest["recipe"] = {"updates": {"epoch": 4, "watermark": "18-0"}}
    (grown / "manifest.json").write_text(json.dumps(manifest))
    second = live.publish_base(grown).version
    versions = LiveVersions(live)
    counted = [versions.last_counted(Version(base, at)) for base, at in ((first, 0), (first, 1))]
    assert counted == [(0, 0), (17, 3)]
    assert versions.last_counted(Version(second, 0)) == (18, 0)
    assert versions.place(Version(first, 1)) == (0, 1) < versions.place(Version(second, 0))
    with pytest.raises(InvalidRelease, match=r"000002\.safetensors"):
        versions.last_counted(Version(first, 2))


def test_a_5xx_or_a_missing_answer_breaks_the_bar() -> None:
    tally = Tally()
    for status in (200, 200, 404):
        tally.add(Answer(status, b""), 0.01)
    assert tally.row("requests")["holds"] == "yes"
    tally.add(Answer(503, b""), 0.01)
    tally.add(None, 0.2)
    row: Row = tally.row("requests")
    assert (row["failed"], row["status_200"], row["in_budget"]) == (2, 2, 0.8)
    assert row["holds"] == "NO"
