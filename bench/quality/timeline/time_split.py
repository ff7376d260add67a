"""`python -m bench time-split`: global time split, each later event predicted in order.

Everything up to a day is learnt. A user's day is predicted whole from the state before it. Arms are
frozen, have a fresh history, or learn on; popularity and counts are always among them.

With --live the arms of a learner are judged: `python -m training learn --replay` leaves one version
a day in a live folder. Releases of --refit have learnt everything up to their day.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bench.common.command_line import add_data, add_json, add_seed, make_parser
from bench.common.results import open_console, open_progress, print_table, write_json
from bench.quality.ranking.paired_differences import print_differences, to_json
from bench.quality.timeline.arms import (
    Arm,
    CountsArm,
    CountState,
    PopularityArm,
    online_arms,
)
from bench.quality.timeline.live_arms import LiveState, learning_arms
from bench.quality.timeline.live_past import LivePast
from bench.quality.timeline.replay import (
    FEW,
    METRICS,
    NEVER,
    OFTEN,
    Judged,
    Timed,
    replay,
    summarise_arms,
)
from bench.quality.timeline.user_days import TimeSplit, split_time
from models.catalog.dataset import load_dataset
from models.errors import InvalidInput, InvalidSettings, one_line
from models.release.live import LiveFolder
from models.release.release import Release

_COMPARED = (
    ("counts_event", "counts"),
    ("counts_daily", "counts"),
    ("counts_event", "counts_daily"),
    ("counts", "counts_frozen"),
    ("counts_event", "popularity_daily"),
    ("history_only", "frozen"),
    ("history_only", "counts"),
    ("counts_event", "history_only"),
    ("memory_live", "counts_event"),
    ("counts_live", "history_only"),
    ("counts_live", "counts_event"),
    ("daily", "frozen"),
    ("micro_batch", "frozen"),
    ("micro_batch", "history_only"),
    ("micro_batch", "counts_event"),
    ("micro_batch", "memory_live"),
    ("micro_batch", "counts_live"),
    ("micro_batch", "daily"),
    ("refit", "counts_live"),
    ("refit", "micro_batch"),
)
_GROUPS = ("", f"_{OFTEN}", f"_{FEW}", f"_{NEVER}")


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    console = open_console()
    split = split_time(load_dataset(options.data), share=options.share)
    release = Release.load(options.release) if options.release else None
    judged, cpu_s = _replay_all(split, release, options)
    if not len(judged.user_E):
        raise InvalidSettings(f"--judge-from {options.judge_from}: no event on later days")
    rows, differences = summarise_arms(judged, _COMPARED, seed=options.seed)
    for row in rows:
        if (name := str(row["name"])) in cpu_s:
            row["cpu_s"] = round(cpu_s[name], 3)
    events = {group: int(is_in_E.sum()) for group, is_in_E in judged.groups().items()}
    meta = {
        "command": "time-split",
        **({"release": f"{release.name}@{release.version}"} if release else {}),
        "data": str(options.data),
        "users": len(set(judged.user_E.tolist())),
        "share": options.share,
        "last_day": split.last_day,
        **({"judged_from": options.judge_from} if options.judge_from else {}),
        "days": len(split.days),
        "events": events,
        "differences": to_json(differences),
    }
    title = f"{options.data}, {events['all']:,} events of {len(split.days)} days, 95% intervals"
    for metric in METRICS:
        columns = ("name", *(metric + group for group in _GROUPS))
        print_table(console, title, rows, columns)
    print_differences(
        console,
        {
            name: {metric: found[metric] for metric in METRICS}
            for name, found in differences.items()
        },
    )
    if options.json:
        write_json(options.json, meta, rows)
    return 0


def _replay_all(
    split: TimeSplit, release: Release | None, options: argparse.Namespace
) -> tuple[Judged, dict[str, float]]:
    """Return the ranks, and the CPU seconds of learning by arm, where they are known."""
    frozen, daily, event = (CountState(split) for _ in range(3))
    timed = {"counts_daily": Timed(daily), "counts_event": Timed(event)}
    arms: dict[str, Arm] = {
        "popularity": PopularityArm(frozen),
        "popularity_daily": PopularityArm(daily),
        "counts_frozen": CountsArm(frozen, is_fresh=False),
        "counts": CountsArm(frozen, is_fresh=True),
        "counts_daily": CountsArm(daily, is_fresh=True),
        "counts_event": CountsArm(event, is_fresh=True),
        **(online_arms(release, split) if release else {}),
    }
    immediate = [timed["counts_event"]]
    if options.live:
        past = LivePast(LiveFolder(options.live))
        state = LiveState(past, split)
        arms |= learning_arms(state, past, split.item_ids, dict(options.refit))
        timed["counts_live"] = timed["memory_live"] = Timed(state)
        immediate.append(timed["counts_live"])
    with open_progress(open_console(), "days", len(split.days)) as on_progress:
        judged = replay(
            split,
            arms,
            daily=[timed["counts_daily"]],
            immediate=immediate,
            on_progress=on_progress,
            first_day=options.judge_from,
        )
    cpu_s = {name: learner.cpu_s for name, learner in timed.items() if name in arms}
    if options.report:
        cpu_s["daily"] = cpu_s["micro_batch"] = reported_cpu_s(options.report)
    return judged, cpu_s


def reported_cpu_s(report: Path) -> float:
    """Sum the CPU seconds in the lines that a learner printed. Raises InvalidInput."""
    try:
        lines = [json.loads(line) for line in report.read_text().splitlines()]
        return sum(float(line.get("cpu_s", 0.0)) for line in lines)
    except (OSError, ValueError, AttributeError) as exc:
        raise InvalidInput(f"{report}: not the lines of a learner ({one_line(exc)})") from exc


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("time-split", __doc__)
    add_data(parser)
    add = parser.add_argument
    add(
        "--release",
        type=Path,
        metavar="DIR",
        help="release that was trained up to the day of the split; adds its online model",
    )
    add(
        "--live",
        type=Path,
        metavar="DIR",
        help="live folder of a replay; adds the arms that learn on",
    )
    add(
        "--refit",
        type=_day_and_release,
        action="append",
        default=[],
        metavar="DAY=DIR",
        help="with --live: release that was trained up to DAY, in days since 1970; may be repeated",
    )
    add(
        "--report",
        type=Path,
        metavar="FILE",
        help="with --live: the lines that the replay printed; adds its CPU time",
    )
    add(
        "--judge-from",
        type=int,
        default=0,
        metavar="DAY",
        help="learn the days before DAY, since 1970, and judge the later ones alone",
    )
    add(
        "--share",
        type=float,
        default=0.9,
        metavar="Q",
        help="share of the events up to the split (default: %(default)s)",
    )
    add_seed(parser)
    add_json(parser)
    options = parser.parse_args(arguments)
    if not 0 < options.share < 1:
        raise InvalidSettings(f"--share {options.share}, expected between 0 and 1")
    if (options.refit or options.report) and not options.live:
        raise InvalidSettings("--refit or --report without --live, expected both")
    return options


def _day_and_release(text: str) -> tuple[int, Path]:
    day, equals, directory = text.partition("=")
    if not equals or not day.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}, expected DAY=DIR")
    return int(day), Path(directory)
