"""Results as a terminal table, as a JSON file, and as a Markdown table.

Knows columns and rows. Knows nothing of measurements.
"""

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from models.machine import processor

Row = Mapping[str, str | int | float]
_MIN_WIDTH = 110


def open_console() -> Console:
    """Return a console on standard output, wide enough that no table loses a digit."""
    console = Console()
    return console if console.width >= _MIN_WIDTH else Console(width=_MIN_WIDTH)


def write_json(file: Path, meta: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write {"meta": {...}, "rows": [...]}; every row has a `name` and flat columns.

    The machine, the Python version and the time are added to meta.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    report = {"meta": {**meta, **_machine()}, "rows": list(rows)}
    file.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def write_markdown(
    file: Path, title: str, meta: Mapping[str, Any], rows: Sequence[Row], columns: Sequence[str]
) -> None:
    """Write the table of `print_table` and below it the meta of `write_json`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = markdown_table(columns, [[_cell(row, column) for column in columns] for row in rows])
    facts = [f"- {key}: {value}" for key, value in {**meta, **_machine()}.items()]
    file.write_text("\n".join([f"# {title}", "", *table, "", *facts]) + "\n")


def markdown_table(
    header: Sequence[str], body: Iterable[Sequence[str]], num_text: int = 1
) -> list[str]:
    """Return the lines of a table; the first `num_text` columns are aligned left, others right."""
    sides = ["---" if at < num_text else "---:" for at in range(len(header))]
    return [_markdown_line(cells) for cells in (header, sides, *body)]


def report(
    console: Console,
    file: Path | None,
    title: str,
    meta: Mapping[str, Any],
    rows: Sequence[Row],
    groups: Sequence[Sequence[str]],
) -> None:
    """Print one table per group of columns; write the results as JSON and Markdown.

    Args:
        file: of the JSON; the Markdown file beside it ends in .md. None writes nothing.
    """
    for columns in groups:
        print_table(console, title, rows, columns)
    if file:
        every = list(dict.fromkeys(column for columns in groups for column in columns))
        write_json(file, meta, rows)
        write_markdown(file.with_suffix(".md"), title, meta, rows, every)


def print_table(console: Console, title: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print the given columns of every row; a column that a row lacks stays blank."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == "name" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row, column) for column in columns))
    console.print(table)


@contextmanager
def open_progress(console: Console, task: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yield a function that takes the number of tasks done so far."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        number = progress.add_task(task, total=total)
        yield lambda done: progress.update(number, completed=done)


def _cell(row: Row, column: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else value
    text = f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    if (low := row.get(f"{column}_low")) is None:
        return text
    return f"{text}\n[{float(low):.4f}, {float(row[f'{column}_high']):.4f}]"


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |"


def _machine() -> dict[str, str]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    machine = f"{os.cpu_count()} x {processor()}"
    return {"finished_at": now, "machine": machine, "python": platform.python_version()}
