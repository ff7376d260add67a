"""Markdown tables from the results files that `bench` writes.

Knows the shape of a results file: meta and rows. Knows nothing of pages.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.common.results import Row, markdown_table
from models.errors import InvalidInput


@dataclass(frozen=True)
class Results:
    """One results file."""

    meta: Mapping[str, Any]
    rows: Sequence[Row]

    def row(self, name: str) -> Row:
        """Return the first row of this name. Raises KeyError without one."""
        for row in self.rows:
            if row["name"] == name:
                return row
        raise KeyError(name)


class Grid(NamedTuple):
    """Cells of a table, as text."""

    header: Sequence[str]
    body: Sequence[Sequence[str]]
    num_text: int = 1  # columns from the left that are text: aligned left


@dataclass(frozen=True)
class Table:
    """One table of the documents."""

    source: str  # name of its file in bench/results, without .json
    draw: Callable[[Results], Grid]

    def render(self, results_dir: Path) -> str:
        """Return the table and a line with its file, command, release, machine and date.

        Raises InvalidInput if the file is missing or has another shape.
        """
        file = results_dir / f"{self.source}.json"
        try:
            results = Results(**json.loads(file.read_text()))
            grid = self.draw(results)
            basis = self._basis(results.meta)
        except (OSError, KeyError, TypeError, ValueError) as exc:
            raise InvalidInput(f"{file} cannot be shown as a table: {exc!r}") from exc
        return "\n".join([*markdown_table(*grid), "", basis])

    def _basis(self, meta: Mapping[str, Any]) -> str:
        command = f"`.venv/bin/python -m bench {meta['command']}`"
        facts = [f"release `{meta['release']}`"] if "release" in meta else []
        facts += [f"{meta['users']:,} users"] if "users" in meta else []
        facts += [f"{meta['rate']:,} requests/s"] if "rate" in meta else []
        facts += [str(meta["machine"]), str(meta["finished_at"])[:10]]
        return f"*`bench/results/{self.source}.json`, by {command}: {', '.join(facts)}.*"


@dataclass(frozen=True)
class Column:
    """One column of a table: which value of a row it shows, and how."""

    title: str
    key: str
    digits: int = 4  # behind the decimal point
    is_tiny: bool = False  # shown as 3.6e-06
    has_interval: bool = False  # 95%, from KEY_low and KEY_high
    scale: float = 1.0  # the value is multiplied by it
    unit: str = ""

    def cell(self, row: Row) -> str:
        """Return the value as text, empty where the row lacks it."""
        if self.key not in row:
            return ""
        text = self._number(row[self.key]) + self.unit
        if not self.has_interval:
            return text
        low, high = (self._number(row[f"{self.key}_{end}"]) for end in ("low", "high"))
        return f"{text} ({low} to {high})"

    def _number(self, value: str | int | float) -> str:
        kind = "e" if self.is_tiny else "f"
        return f"{float(value) * self.scale:,.{self.digits}{kind}}"


def pick(
    first: str, labels: Mapping[str, str], *columns: Column, only_present: bool = False
) -> Callable[[Results], Grid]:
    """Show one row per label.

    Args:
        first: header of the first column.
        labels: row name -> text of the first column, in the order of the table.
        columns: the other columns.
        only_present: leave out rows that the results lack.
    """

    def draw(results: Results) -> Grid:
        present = {row["name"] for row in results.rows}
        body = [
            [label, *(column.cell(results.row(name)) for column in columns)]
            for name, label in labels.items()
            if name in present or not only_present
        ]
        return Grid([first, *(column.title for column in columns)], body)

    return draw


def differences(
    first: str, key: str, labels: Mapping[str, str], metrics: Mapping[str, str]
) -> Callable[[Results], Grid]:
    """Show paired differences with their intervals, from `meta[key]`.

    Args:
        first: header of the first column.
        key: of the differences in meta, by "one minus other" and metric.
        labels: "one minus other" -> text of the first column.
        metrics: metric -> header of its column.
    """

    def draw(results: Results) -> Grid:
        body = []
        for name, label in labels.items():
            found = results.meta[key][name]
            body.append([label, *(_difference(found.get(metric)) for metric in metrics)])
        return Grid([first, *metrics.values()], body)

    return draw


def _difference(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return ""
    mean, low, high = (interval[part] for part in ("mean", "low", "high"))
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
