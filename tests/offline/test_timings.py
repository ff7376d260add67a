"""Times of micro-batches, and a night's report of them."""

from pathlib import Path

from offline.progress import Timing, describe_timings, note_timing, read_timings

TIMINGS = [Timing(0.5 + at, at % 2, at // 2, 32, 1000) for at in range(8)]


def test_what_many_processes_noted_is_added_up(tmp_path: Path) -> None:
    for timing in TIMINGS:
        note_timing(tmp_path, timing)
    found = describe_timings(tmp_path, price_per_hour=3600.0)
    assert (found["think_s"], found["users_per_s"], found["tokens_per_s"]) == (32.0, 8.0, 250.0)
    assert found["cost"] == 32.0
    slowest = [each["seconds"] for each in found["slowest_batches"]]
    assert slowest == [7.5, 6.5, 5.5, 4.5, 3.5]


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    note_timing(tmp_path, TIMINGS[0])
    file = tmp_path / "part-00000.times"
    whole = file.read_text()
    file.write_text(whole + whole[:9] + "\n" + whole + "[]\n[1,2]\n" + whole[:7])
    assert list(read_timings(tmp_path)) == [TIMINGS[0]] * 2


def test_a_night_that_only_carried_users_on_has_no_speed(tmp_path: Path) -> None:
    found = describe_timings(tmp_path, price_per_hour=None)
    assert (found["think_s"], found["users_per_s"], found["cost"]) == (0.0, None, None)
