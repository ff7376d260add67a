"""The report of a night as one self-contained HTML page: no link, script, font or image.

All data from users are escaped. Knows only the keys of the summary.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse}td,th{padding:.2rem 1rem .2rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid #eee}section{overflow-x:auto}
td.n,th.n{text-align:right;white-space:nowrap}
.pass{color:#176d3a}.fail{color:#b3261e;font-weight:bold}.none{color:#666}
.forced{background:#fff3cd;padding:.5rem}
.bars{display:grid;grid-template-columns:max-content 1fr max-content;gap:.25rem .75rem;
max-width:40rem;font-size:.9rem;align-items:center}
.bars b{display:block;height:1rem;background:#4c78a8}.bars .before{background:#c3cbd6}
.bars .n{text-align:right}
"""


def render_html(summary: dict[str, Any]) -> str:
    """Render the whole page."""
    title = f"Night of {_planned(summary):%Y-%m-%d}"
    sections = [
        _head(summary),
        _section("Users", _users(summary)),
        _section("Gates", _gates(summary)),
        _section("Users by overlap with the night before (Jaccard)", _overlaps(summary)),
        _section("Paths by length in characters", _lengths(summary)),
        _section("Most frequent first codes, this night and the one before", _first_codes(summary)),
        _section("Thinking", _thinking(summary)),
        _section("Slowest micro-batches", _slowest(summary)),
        _section("Users with the most tokens", _most_tokens(summary)),
        _section("Seconds by stage", _stages(summary)),
    ]
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>{''.join(sections)}</html>\n"
    )


def _planned(summary: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(summary["created_at"], UTC)


def _head(summary: dict[str, Any]) -> str:
    epoch, percent = summary.get("epoch"), summary.get("canary_percent")
    is_live = f"live since epoch {epoch}" if epoch else "not live"
    state = f"{is_live}, for a canary of {percent:g}%" if percent else is_live
    text = (
        f"<p>Generation {summary['generation']} ({escape(summary['layer'])}) by "
        f"{escape(str(summary['release']))}, planned {_planned(summary):%Y-%m-%d %H:%M} UTC, "
        f"{state}.</p>"
    )
    forced = summary.get("forced")
    return text + (f"<p class=forced>Gates overruled: {escape(forced)}</p>" if forced else "")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _users(summary: dict[str, Any]) -> str:
    changes = summary.get("changes", {})
    rows = [
        ("thought about", summary.get("users_due")),
        ("carried over", summary.get("carried")),
        ("new", changes.get("new")),
        ("changed", changes.get("changed")),
        ("unchanged", changes.get("unchanged")),
        ("gone", changes.get("gone")),
        ("failed", summary.get("failed")),
        ("empty", summary.get("empty")),
        ("prefixes per user", summary.get("mean_prefixes")),
    ]
    share = changes.get("share_compared", 1)
    note = f"<p>Compared: {share:.1%} of the users, chosen by hash.</p>" if share < 1 else ""
    return _facts(rows) + note


def _gates(summary: dict[str, Any]) -> str:
    rows = [
        (escape(gate["name"].replace("_", " ")), *_verdict(gate), escape(gate["expected"]))
        for gate in summary.get("gates", [])
    ]
    return _table(("gate", "", "value", "expected"), rows)


def _verdict(gate: dict[str, Any]) -> tuple[str, str]:
    """Render verdict and value. A gate with too few data passes, but says so."""
    if gate["value"] is None:
        return "<span class=none>too few data to judge</span>", "-"
    passed = "<span class=pass>passed</span>" if gate["has_passed"] else None
    return passed or "<span class=fail>FAILED</span>", short(gate["value"])


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
    """Render the first codes, with the night before in grey, if there was one."""
    drift = summary.get("first_code_drift")
    bars: list[tuple[str, float]] = []
    for each in summary.get("first_codes", []):
        bars.append((f"code {each['code']}", each["share"]))
        if drift is not None:
            bars.append(("", each["share_before"]))
    note = "" if drift is None else f"<p>Drift (total variation) {drift:.3f}; before in grey.</p>"
    return note + _bars(bars, is_paired=drift is not None)


def _thinking(summary: dict[str, Any]) -> str:
    """Render the thinking; "" for a night that only carried rows over."""
    if not summary.get("think_s"):
        return ""
    rows = [
        ("process hours", summary["think_s"] / 3600),
        ("users/s per process", summary["users_per_s"]),
        ("tokens/s per process", summary["tokens_per_s"]),
        ("cost", summary.get("cost")),
    ]
    return _facts(rows)


def _slowest(summary: dict[str, Any]) -> str:
    """Render the slowest micro-batches. A user of a micro-batch has no time of its own."""
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


def _facts(rows: Iterable[tuple[str, float | None]]) -> str:
    return _table((), [(name, _number(value)) for name, value in rows])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a table; columns of numbers are aligned right."""
    kinds = [" class=n" if _is_numeric(column) else "" for column in zip(*rows, strict=True)]
    lines = [
        "".join(f"<td{kind}>{cell}" for kind, cell in zip(kinds, row, strict=True)) for row in rows
    ]
    if head and rows:
        lines.insert(
            0, "".join(f"<th{kind}>{name}" for kind, name in zip(kinds, head, strict=True))
        )
    return f"<table>{''.join(f'<tr>{line}' for line in lines)}</table>"


def _is_numeric(column: Iterable[str]) -> bool:
    return all(cell[:1].isdigit() or cell == "-" for cell in column)


def _bars(bars: Sequence[tuple[str, float]], *, is_paired: bool = False) -> str:
    """Render a horizontal bar chart. is_paired: every second bar is grey."""
    if not bars:
        return ""
    most = max(value for _, value in bars) or 1
    lines = []
    for at, (label, value) in enumerate(bars):
        grey = " class=before" if is_paired and at % 2 else ""
        lines.append(
            f'<span>{escape(label)}</span><b{grey} style="width:{value / most:.1%}"></b>'
            f"<span class=n>{_number(value)}</span>"
        )
    return f"<div class=bars>{''.join(lines)}</div>"


def short(value: float) -> str:
    """Format with up to four decimals, without trailing zeros."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
