"""PNG figures of results rows: lines, with intervals as bands.

Knows the columns of `frontier` and `staleness`. Draws without pyplot, which has global state.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.common.results import Row
from bench.quality.ranking.quality_rows import ONLINE

_DPI = 90
_COLORS = ("#4477aa", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#66ccee")  # Paul Tol's bright
_GREY = "#777777"


def plot_frontier(file: Path, rows: Sequence[Row], *, title: str) -> None:
    """Plot prefix recall by size of C_u, and recall@10 by CPU time; one line per T."""
    figure, (left, right) = _open(title)
    cells = [row for row in rows if "paths" in row]
    online = next(row for row in rows if row["name"] == ONLINE)
    all_paths = sorted({int(row["paths"]) for row in cells})
    for color, paths in zip(_COLORS * len(all_paths), all_paths, strict=False):
        line = sorted((row for row in cells if row["paths"] == paths), key=lambda row: row["width"])
        _line(left, line, "prefixes", "prefix_recall", color, f"T = {paths}")
        _line(right, line, "cpu_ms", "strict@10", color, f"T = {paths}, strict")
    by_size = sorted(cells, key=lambda row: row["prefixes"])
    _line(left, by_size, "prefixes", "own_prefix_recall", _GREY, "online model's own", dashed=True)
    _level(right, online, "recall@10", "online alone")
    times, recalls = ([float(row[name]) for row in cells] for name in ("cpu_ms", "union@10"))
    right.plot(times, recalls, "x", color="black", markersize=4, label="union, every cell")
    _label(left, "prefixes a user in C_u", "prefix recall")
    _label(right, "thinking a user, CPU ms of one thread", "recall@10")
    _save(figure, file)


def plot_staleness(file: Path, rows: Sequence[Row], *, title: str) -> None:
    """Plot prefix recall and recall@10 by the age of C_u in interactions."""
    figure, (left, right) = _open(title)
    aged = [row for row in rows if "age" in row]
    online = next(row for row in rows if row["name"] == ONLINE)
    _line(left, aged, "age", "prefix_recall", _COLORS[0], "C_u")
    _line(left, aged, "age", "own_prefix_recall", _GREY, "online model's own, as old", dashed=True)
    _line(right, aged, "age", "strict@10", _COLORS[0], "two tiers, strict")
    _line(right, aged, "age", "union@10", _COLORS[3], "two tiers, union")
    _level(right, online, "recall@10", "online alone")
    _label(left, "interactions since C_u was made", "prefix recall")
    _label(right, "interactions since C_u was made", "recall@10")
    _save(figure, file)


def _open(title: str) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    return figure, figure.subplots(1, 2)


def _line(
    axes: Axes,
    rows: Sequence[Row],
    x: str,
    y: str,
    color: str,
    label: str,
    *,
    dashed: bool = False,
) -> None:
    """Plot column y over column x, with y's interval as a band."""
    at = [float(row[x]) for row in rows]
    low, high = ([float(row[f"{y}_{end}"]) for row in rows] for end in ("low", "high"))
    style = "--" if dashed else "-"
    axes.plot(
        at,
        [float(row[y]) for row in rows],
        style,
        color=color,
        label=label,
        marker=".",
        linewidth=1,
    )
    axes.fill_between(at, low, high, color=color, alpha=0.12, linewidth=0)


def _level(axes: Axes, row: Row, column: str, label: str) -> None:
    """Plot a value that does not depend on x as a horizontal line."""
    axes.axhline(float(row[column]), color=_GREY, linestyle="--", linewidth=1, label=label)
    axes.axhspan(
        float(row[f"{column}_low"]),
        float(row[f"{column}_high"]),
        color=_GREY,
        alpha=0.1,
        linewidth=0,
    )


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(f"{y} (band: 95% interval)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=_DPI, metadata={"Software": None})
