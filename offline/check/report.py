"""Reports of a night for people and machines: summary.json, report.html, metrics.prom.

All three are made from one dict, so that they cannot disagree.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.durable import write_text
from offline.check.compare import LENGTH_STEP, Comparison
from offline.check.gates import Gate
from offline.check.report_html import render_html, short

_NUM_FIRST_CODES = 10

# name, help, key of the summary
_METRICS = (
    ("generation", "Generation of the last night (unix milliseconds).", "generation"),
    ("epoch", "Epoch at which it went live; absent if it is not live.", "epoch"),
    ("activated_seconds", "Time at which it went live (unix seconds).", "activated_at"),
    ("users_due", "Users to think about.", "users_due"),
    ("users_refreshed", "Users with new thoughts.", "refreshed"),
    ("users_carried", "Users with a row carried over from an earlier generation.", "carried"),
    ("users_empty", "Users without a closed path.", "empty"),
    ("users_failed", "Dead letters: users that failed twice.", "failed"),
    ("tokens", "Tokens sampled.", "tokens"),
    ("think_seconds", "Seconds of thinking, summed over processes.", "think_s"),
    ("users_per_second", "Users per second of one process.", "users_per_s"),
    ("cost", "Cost of the thinking; absent without --price-per-hour.", "cost"),
    ("record_bytes", "Mean bytes of a record key in the store.", "record_bytes"),
    ("load_cuts", "Number of times that loading slowed down for the store.", "load_cuts"),
)


def describe(found: Comparison, gates: Sequence[Gate], force: str | None) -> dict[str, Any]:
    """Return the comparison and the verdicts as a part of the summary."""
    today, before = found.first_codes, found.before.first_codes
    top = [code for code, _ in (today + before).most_common(_NUM_FIRST_CODES)]
    return {
        "gates": [gate._asdict() for gate in gates],
        "forced": force,
        "records": found.num_users,
        "changes": {
            "new": found.new,
            "changed": found.changed,
            "unchanged": found.unchanged,
            "gone": found.gone,
            "share_compared": round(found.before.share, 6),
        },
        "mean_prefixes": round(found.mean_prefixes, 3),
        "mean_overlap": round(found.mean_overlap, 4) if found.num_compared else None,
        "overlaps": found.overlaps,
        "thought_lengths": {
            str(step * LENGTH_STEP): num for step, num in sorted(found.lengths.items())
        },
        "first_code_drift": round(found.drift, 4) if found.before.num_users else None,
        "first_codes": [
            {
                "code": code,
                "share": today[code] / max(today.total(), 1),
                "share_before": before[code] / max(before.total(), 1),
            }
            for code in top
        ],
        "most_tokens": [
            {"user_id": costly.user_id, "tokens": costly.tokens}
            for costly in sorted(found.costly, reverse=True)
        ],
    }


def write_reports(
    folder: Path, summary: dict[str, Any], textfile: Path | None, *, is_live: bool = True
) -> None:
    """Write report.html and metrics.prom, and summary.json if the generation is live.

    summary.json marks a night as over. textfile: path of the metrics, instead of the folder.
    """
    if is_live:
        write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_text(folder / "report.html", render_html(summary))
    write_text(textfile or folder / "metrics.prom", render_metrics(summary))


def render_table(summary: Mapping[str, Any]) -> str:
    """Render the summary in a few lines, for a terminal at the end of a night."""
    changes = summary["changes"]
    facts = [
        ("generation", f"{summary['generation']} ({summary['layer']}), epoch {summary['epoch']}"),
        ("users", _numbers(summary, "refreshed", "carried", "empty", "failed")),
        ("thinking", _thinking(summary)),
        ("compared to before", _numbers(changes, "new", "changed", "unchanged", "gone")),
        *((f"gate {gate['name']}", _verdict(gate)) for gate in summary["gates"]),
        ("report", f"{summary['shards']}/report.html"),
    ]
    return "\n".join(f"{name:<18}  {fact}" for name, fact in facts)


def _numbers(facts: Mapping[str, Any], *names: str) -> str:
    return ", ".join(f"{facts.get(name, 0):,} {name}" for name in names)


def _thinking(summary: Mapping[str, Any]) -> str:
    if not summary.get("users_due"):
        return "no user to think about"
    if not summary["think_s"]:
        return "no timings"
    facts = [
        f"{summary['users_per_s']:,.1f} users/s and {summary['tokens_per_s']:,.0f} tokens/s",
        f"{summary['think_s'] / 3600:,.3f} hours of one process",
    ]
    if summary.get("cost") is not None:
        facts.append(f"cost {summary['cost']:,.2f}")
    return ", ".join(facts)


def _verdict(gate: Mapping[str, Any]) -> str:
    if gate["value"] is None:
        return "too few data to judge"
    verdict = "passed" if gate["has_passed"] else "FAILED"
    return f"{verdict}: {short(gate['value'])}, expected {gate['expected']}"


def render_metrics(summary: dict[str, Any]) -> str:
    """Render the Prometheus text format, for node exporter's textfile collector."""
    lines: list[str] = []
    for name, text, key in _METRICS:
        if summary.get(key) is not None:
            lines += _metric(name, text, [("", summary[key])])
    gates = summary.get("gates", [])
    passed = [(f'{{gate="{gate["name"]}"}}', int(gate["has_passed"])) for gate in gates]
    values = [
        (f'{{gate="{gate["name"]}"}}', gate["value"]) for gate in gates if gate["value"] is not None
    ]
    seconds = summary.get("seconds", {})
    stages = [(f'{{stage="{stage}"}}', spent) for stage, spent in seconds.items()]
    lines += _metric("gate_passed", "1 if the gate passed, 0 if it failed.", passed)
    lines += _metric("gate_value", "Value that the gate judged.", values)
    lines += _metric("stage_seconds", "Seconds per stage.", stages)
    return "\n".join(lines) + "\n"


def _metric(name: str, text: str, samples: Sequence[tuple[str, float]]) -> list[str]:
    full = f"thinkahead_night_{name}"
    head = [f"# HELP {full} {text}", f"# TYPE {full} gauge"]
    return [*head, *(f"{full}{labels} {value}" for labels, value in samples)] if samples else []
