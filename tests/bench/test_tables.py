"""Results tables of the documents: rendering, pages, and agreement with the results files."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.common.results import Row
from bench.tables.chosen import TABLES
from bench.tables.fill_pages import fill_page, find_pages, main
from bench.tables.layout import Column, Results, Table, pick
from models.errors import InvalidInput
from tests import ROOT

RESULTS = ROOT / "bench" / "results"
PAGE = "# Title\n\n<!-- table: soak -->\n<!-- end -->\n\nText.\n"


def shown(page: Path) -> set[str]:
    return {name for name in TABLES if f"<!-- table: {name} -->" in page.read_text()}


def test_the_documents_agree_with_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If not: `.venv/bin/python -m bench tables` writes them."""
    monkeypatch.chdir(ROOT)
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_every_table_is_shown_by_a_document() -> None:
    assert set().union(*map(shown, find_pages(ROOT))) == set(TABLES)


def test_a_page_is_written_once_and_then_agrees(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert main(["--results", str(RESULTS), "--check", str(page)]) == 1
    assert page.read_text() == PAGE
    assert main(["--results", str(RESULTS), str(page)]) == 0
    assert page.read_text().startswith("# Title\n\n<!-- table: soak -->\n\n| run |")
    assert page.read_text().endswith("*\n\n<!-- end -->\n\nText.\n")
    assert main(["--results", str(RESULTS), "--check", str(page)]) == 0


def test_a_changed_figure_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    main(["--results", str(RESULTS), str(page)])
    page.write_text(page.read_text().replace("36,062", "36,063"))
    assert main(["--results", str(RESULTS), "--check", str(page)]) == 1


@pytest.mark.parametrize(
    "text",
    ["<!-- table: no-such -->\n<!-- end -->\n", "<!-- table: soak -->\n", "<!-- table:soak -->\n"],
    ids=["unknown", "no end", "malformed"],
)
def test_a_broken_marker_is_bad_input(text: str) -> None:
    with pytest.raises(InvalidInput):
        fill_page(Path("page.md"), text, RESULTS)


@pytest.mark.parametrize("meta", [{"command": "soak"}, {}], ids=["no machine", "empty"])
def test_a_results_file_of_another_shape_is_bad_input(tmp_path: Path, meta: dict[str, Any]) -> None:
    (tmp_path / "soak.json").write_text(json.dumps({"meta": meta, "rows": []}))
    with pytest.raises(InvalidInput, match=r"soak\.json"):
        TABLES["soak"].render(tmp_path)
    with pytest.raises(InvalidInput, match=r"nothing\.json"):
        Table("nothing", pick("row", {})).render(tmp_path)


def test_cells_have_thousands_units_and_intervals() -> None:
    row: Row = {"name": "a", "x": 0.1234, "x_low": 0.1, "x_high": 0.2, "n": 12345, "tiny": 3.6e-6}
    columns = (
        Column("X", "x", 2, has_interval=True),
        Column("%", "x", 1, scale=100, unit="%"),
        Column("N", "n", 0),
        Column("T", "tiny", 1, is_tiny=True),
        Column("none", "missing"),
    )
    grid = pick("row", {"a": "first"}, *columns)(Results({}, [row]))
    assert grid.header == ["row", "X", "%", "N", "T", "none"]
    assert grid.body == [["first", "0.12 (0.10 to 0.20)", "12.3%", "12,345", "3.6e-06", ""]]
