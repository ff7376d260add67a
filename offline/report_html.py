"""The night's report as one HTML page without a single link: no script, no font, no image.

Everything from users is escaped. Knows the summary's keys, nothing of how they came about.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

_BAR_HEIGHT, _BAR_GAP, _LABEL, _WIDTH = 16, 4, 110, 640
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{margin-top:2rem;border-bottom:1px solid #ddd}table{border-collapse:collapse}
td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #eee}td.n{text-align:right}
.pass{color:#176d3a}.fail{color:#b3261e;font-weight:bold}.forced{background:#fff3cd;padding:.5rem}
svg text{font:12px system-ui,sans-serif;fill:#222}rect{fill:#4c78a8}rect.before{fill:#c3cbd6}
"""


def render_html(summary: dict[str, Any]) -> str:
    """The whole page."""
    title = f"Night {summary['generation']}"
    sections = [
        _head(summary),
        _section("Users", _users(summary)),
        _section("Gates", _gates(summary)),
        _section("Overlap with the night before, users by Jaccard", _overlaps(summary)),
        _section("Length of thoughts, paths by characters", _lengths(summary)),
        _section("Top first codes, this night and the one before", _first_codes(summary)),
        _section("Thinking", _thinking(summary)),
        _section("Slowest micro-batches", _slowest(summary)),
        _section("Users with the most tokens", _most_tokens(summary)),
        _section("Seconds by stage", _stages(summary)),
    ]
    return (
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>{_STYLE}</style><h1>{title}</h1>{''.join(sections)}</html>\n"
    )


def _head(summary: dict[str, Any]) -> str:
    planned = datetime.fromtimestamp(summary["created_at"], UTC).isoformat(timespec="seconds")
    epoch = summary.get("epoch")
    percent = summary.get("canary_percent")
    is_live = f"live since epoch {epoch}" if epoch else "not live"
    state = f"{is_live}, for a canary of {percent:g}%" if percent else is_live
    text = f"<p>{escape(str(summary['release']))}, {escape(summary['layer'])}, planned {planned}, "
    forced = summary.get("forced")
    note = f"<p class=forced>Gates overruled: {escape(forced)}</p>" if forced else ""
    return f"{text}{state}.</p>{note}"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _users(summary: dict[str, Any]) -> str:
    changes = summary.get("changes", {})
    rows = [
        ("thought about", summary.get("users_due")),
        ("carried on as they were", summary.get("carried")),
        ("new", changes.get("new")),
        ("changed", changes.get("changed")),
        ("unchanged", changes.get("unchanged")),
        ("gone", changes.get("gone")),
        ("failed", summary.get("failed")),
        ("empty", summary.get("empty")),
        ("prefixes a user", summary.get("mean_prefixes")),
    ]
    share = changes.get("share_compared", 1)
    note = f"<p>Compared: {share:.1%} of the users, chosen by hash.</p>" if share < 1 else ""
    return _table(("", ""), [(name, _number(value)) for name, value in rows]) + note


def _gates(summary: dict[str, Any]) -> str:
    rows = [
        (
            escape(gate["name"]),
            "nothing to judge by" if gate["value"] is None else f"{gate['value']:.4g}",
            escape(gate["expected"]),
            "<span class=pass>passed</span>"
            if gate["has_passed"]
            else "<span class=fail>FAILED</span>",
        )
        for gate in summary.get("gates", [])
    ]
    return _table(("gate", "value", "expected", ""), rows)


def _overlaps(summary: dict[str, Any]) -> str:
    counts: Sequence[int] = summary.get("overlaps", [])
    if not sum(counts):
        return "<p>Nothing to compare with.</p>"
    size = 1 / len(counts)
    bars = [(f"{at * size:.1f} to {(at + 1) * size:.1f}", num) for at, num in enumerate(counts)]
    return f"<p>Mean {summary['mean_overlap']:.3f}.</p>{_bars(bars)}"


def _lengths(summary: dict[str, Any]) -> str:
    lengths = summary.get("thought_lengths", {})
    return _bars([(f"from {start}", num) for start, num in lengths.items()])


def _first_codes(summary: dict[str, Any]) -> str:
    found = summary.get("first_codes", [])
    bars: list[tuple[str, float]] = []
    for each in found:
        bars.append((f"code {each['code']}", each["share"]))
        bars.append(("", each["share_before"]))
    drift = summary.get("first_code_drift")
    note = "" if drift is None else f"<p>Drift (total variation) {drift:.3f}; before in grey.</p>"
    return note + _bars(bars, is_paired=True)


def _thinking(summary: dict[str, Any]) -> str:
    """Nothing for a night that only carried users on."""
    if not summary.get("think_s"):
        return ""
    rows = [
        ("hours of one process", summary["think_s"] / 3600),
        ("users a second of one", summary["users_per_s"]),
        ("tokens a second of one", summary["tokens_per_s"]),
        ("cost", summary.get("cost")),
    ]
    return _table(("", ""), [(name, _number(value)) for name, value in rows])


def _slowest(summary: dict[str, Any]) -> str:
    """Its users are thought about together, so that none of them has a time of their own."""
    found = summary.get("slowest_batches", [])
    head = ("seconds", "shard", "batch", "users", "tokens")
    return _table(head, [[_number(each[name]) for name in head] for each in found]) if found else ""


def _most_tokens(summary: dict[str, Any]) -> str:
    rows = [
        (escape(each["user_id"]), _number(each["tokens"]))
        for each in summary.get("most_tokens", [])
    ]
    return _table(("user", "tokens"), rows) if rows else ""


def _stages(summary: dict[str, Any]) -> str:
    return _bars(list(summary.get("seconds", {}).items()))


def _table(head: Iterable[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _bars(bars: Sequence[tuple[str, float]], *, is_paired: bool = False) -> str:
    """A horizontal bar chart; of pairs, the second is drawn grey."""
    if not bars:
        return ""
    most = max(value for _, value in bars) or 1
    lines = []
    for at, (label, value) in enumerate(bars):
        y = at * (_BAR_HEIGHT + _BAR_GAP)
        width = (_WIDTH - _LABEL - 80) * value / most
        grey = " class=before" if is_paired and at % 2 else ""
        lines.append(
            f"<text x=0 y={y + 12}>{escape(label)}</text>"
            f'<rect{grey} x={_LABEL} y={y} width="{width:.1f}" height={_BAR_HEIGHT} />'
            f'<text x="{_LABEL + width + 5:.1f}" y={y + 12}>{_number(value)}</text>'
        )
    height = len(bars) * (_BAR_HEIGHT + _BAR_GAP)
    return f"<svg role=img width={_WIDTH} height={height}>{''.join(lines)}</svg>"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
