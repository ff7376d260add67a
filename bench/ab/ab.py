"""`python -m bench ab --exposures LOG... --events LOG... [--control ARM] [--json FILE]`.

Prints the lift of every arm over the control for each metric, with 95% intervals over users. Exits
with 1 if the numbers of users do not match the arms' shares: then no figure can be trusted.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.ab.exposures import (
    METRICS,
    Action,
    Experiment,
    Sums,
    add_up,
    read_events,
    read_exposures,
)
from bench.ab.lift import Ratio, compare, ratio, sample_ratio_p
from bench.common.command_line import add_json, make_parser
from bench.common.results import open_console, print_table, write_json
from models.errors import InvalidInput

SRM_BELOW = 0.001  # of the chi-squared test
EX_FAILED = 1
_COLUMNS = ("name", "users", "value", "control", "lift", "relative", "p_value")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    experiments = read_exposures(options.exposures)
    name = _choose("experiment", options.experiment, sorted(experiments))
    exposed = experiments[name]
    default = "control" if "control" in exposed.arms else None
    control = _choose("control arm", options.control or default, sorted(exposed.arms))
    events = read_events(options.events)
    rows = measure(exposed, events, control=control, window_s=3600 * options.window_hours)
    srm = check_counts(exposed, _shares(options.shares) or exposed.shares)
    console = open_console()
    print_table(console, f"{name}: every arm against {control}", rows, _COLUMNS)
    console.print(
        f"users: {srm['counts']}, expected by shares {srm['shares']}: p = {srm['p_value']:.3g}; "
        f"seen in several arms and removed: {len(exposed.mixed)}"
    )
    if srm["is_mismatch"]:
        console.print("SAMPLE RATIO MISMATCH: no figure of this experiment can be trusted")
    if options.json:
        meta = {"experiment": name, "control": control, "window_hours": options.window_hours}
        described = {"metrics": METRICS, "sample_ratio": srm, "mixed_users": len(exposed.mixed)}
        write_json(options.json, meta | described, rows)
    return EX_FAILED if srm["is_mismatch"] else 0


def measure(
    exposed: Experiment, events: Mapping[str, Sequence[Action]], *, control: str, window_s: float
) -> list[dict[str, str | int | float]]:
    """Return one row per metric and arm, the control first; none for a metric without events."""
    sums = {
        arm: add_up(users, events, window_s=window_s)
        for arm, users in sorted(exposed.arms.items(), key=lambda each: (each[0] != control, each))
    }
    rows = []
    for metric in METRICS:
        base = _ratio(sums[control][metric])
        if base is not None:
            rows.append(_row(metric, control, base))
            rows += [
                _row(metric, arm, found, base)
                for arm in sums
                if arm != control and (found := _ratio(sums[arm][metric])) is not None
            ]
    return rows


def check_counts(exposed: Experiment, shares: Mapping[str, float]) -> dict[str, Any]:
    """Test if the numbers of users in the arms match the shares."""
    counts = {arm: len(users) for arm, users in sorted(exposed.arms.items())}
    p_value = sample_ratio_p(counts, shares)
    return {
        "counts": counts,
        "shares": dict(sorted(shares.items())),
        "p_value": p_value,
        "is_mismatch": p_value < SRM_BELOW,
    }


def _ratio(sums: Sums) -> Ratio | None:
    return ratio(sums.numerator_U, sums.denominator_U)


def _row(
    metric: str, arm: str, found: Ratio, base: Ratio | None = None
) -> dict[str, str | int | float]:
    row: dict[str, str | int | float] = {
        "name": f"{metric} {arm}",
        "metric": metric,
        "arm": arm,
        "users": found.num_users,
        "value": found.value,
        "value_low": found.value - found.half_width,
        "value_high": found.value + found.half_width,
    }
    if base is None:
        return row
    lift = compare(found, base)
    row |= {"control": base.value, "lift": lift.difference}
    row |= {"lift_low": lift.low, "lift_high": lift.high, "p_value": lift.p_value}
    relative = {
        "relative": lift.relative,
        "relative_low": lift.relative_low,
        "relative_high": lift.relative_high,
    }
    return row | {name: value for name, value in relative.items() if value is not None}


def _choose(what: str, wanted: str | None, known: Sequence[str]) -> str:
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted is None or wanted not in known:
        has = ", ".join(known) or "none"
        asked = f"no {what} {wanted}" if wanted else f"which {what}?"
        raise InvalidInput(f"{asked} The logs of exposures have: {has}")
    return wanted


def _shares(words: Sequence[str]) -> dict[str, float]:
    try:
        shares = {arm: float(share) for arm, _, share in (word.partition("=") for word in words)}
    except ValueError as exc:
        raise InvalidInput(f"--shares {' '.join(words)}: expected ARM=NUMBER") from exc
    if any(not share > 0 for share in shares.values()):
        raise InvalidInput(f"--shares {' '.join(words)}: expected shares above 0")
    return shares


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("ab", __doc__)
    files: dict[str, Any] = {"nargs": "+", "type": Path, "required": True, "metavar": "FILE"}
    parser.add_argument("--exposures", help="logs of the service, text or JSON", **files)
    parser.add_argument("--events", help="JSON lines: user_id, item_id, timestamp", **files)
    parser.add_argument("--experiment", help="needed if the logs have several")
    parser.add_argument("--control", metavar="ARM", help="(default: the arm `control`)")
    parser.add_argument(
        "--window-hours", type=float, default=24.0, metavar="H", help="(default: 24)"
    )
    parser.add_argument(
        "--shares",
        nargs="+",
        default=(),
        metavar="ARM=SHARE",
        help="planned shares of users, to check the counts (default: from the service's logs)",
    )
    add_json(parser)
    return parser
