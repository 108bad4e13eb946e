"""Subgroups and ensembles on the page: each cell is that of the tables, and without being asked for there is none."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import browser, console, set_width
from inside import finish_inside
from test_ensembles import stored
from test_page import settle, texts
from test_subgroups import store


def sections(page: Path) -> dict[str, Any]:
    """The sections that are tables of a page, by id."""
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert data is not None
    return {section["id"]: section for section in json.loads(data[1]).get("use", [])}


def markdown_rows(path: Path) -> list[list[str]]:
    """The cells of all tables of a file, without marks of ranks, and the resolution in every row."""
    rows, side = [], ""
    for line in path.read_text().splitlines():
        cells = [re.sub(r"\*\*|</?u>|\\", "", cell).strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or set(line) <= set("|:-"):
            continue
        side = cells[0] or side
        rows.append([side, *cells[1:]])
    return rows


def table_as_in_markdown(table: dict[str, Any]) -> list[list[str]]:
    """The same of a table of the page: its head, then its rows."""
    rows = [[cells[1], cells[0], *cells[2:]] for cells in (row["cells"] for row in table["rows"])]
    return [["Resolution", table["columns"][0], *table["columns"][2:]], *rows]


def test_subgroups_are_those_of_tables(tmp_path: Path) -> None:
    store(tmp_path, {"north": 2.0, "south": 0.3, "tiny": 1.0})
    assert finish_inside(tmp_path, "tables", "--by", "site", "--metrics", "auprc").returncode == 0
    said = finish_inside(tmp_path, "report", "--by", "site", "--metrics", "auprc")
    assert said.returncode == 0, said.stderr
    section = sections(tmp_path / "results/report.html")["by-0"]
    assert section["title"] == "By site" and len(section["tables"]) == 2
    written = markdown_rows(tmp_path / "results/tables/subgroups-site.md")
    assert [row for table in section["tables"] for row in table_as_in_markdown(table)] == written
    assert "Too small to be scored, under 10 of a class: tiny" in section["tables"][0]["caption"]
    assert "Bonferroni" in section["said"]


def test_ensembles_are_those_of_tables_beside_their_methods(tmp_path: Path) -> None:
    stored(tmp_path / "results")
    asked = ("--ensembles", "seeds", "full+lora")
    assert finish_inside(tmp_path, "tables", *asked).returncode == 0
    assert finish_inside(tmp_path, "report", *asked).returncode == 0
    (table,) = sections(tmp_path / "results/report.html")["ensembles"]["tables"]
    head, *rows = table_as_in_markdown(table)
    written = markdown_rows(tmp_path / "results/tables/results.md")
    named = [re.sub(" [↑↓]$", "", name) for name in written[0]]
    expected = [
        [dict(zip(named, row, strict=True))[name] for name in head] for row in written[1:] if len(row) == len(named)
    ]
    of_methods = [row for row in expected if "baseline" not in row[1]]
    assert rows == of_methods and len(rows) == 5 and {"AUC (%)", "AUC 95 % CI (%)", "Seeds"} <= set(head)


def test_what_was_not_asked_for_is_not_there_and_what_cannot_be_is_said(tmp_path: Path) -> None:
    store(tmp_path, {"north": 2.0, "south": 0.3, "tiny": 1.0}, seeds=1)
    assert finish_inside(tmp_path, "report").returncode == 0
    assert sections(tmp_path / "results/report.html") == {}
    said = finish_inside(tmp_path, "report", "--by", "scanner")
    assert said.returncode == 1 and "scanner" in said.stderr and sections(tmp_path / "results/report.html") == {}
    said = finish_inside(tmp_path, "report", "--ensembles", "soups")
    assert said.returncode == 2 and "bench.py soup RUN makes soups" in said.stderr


@pytest.mark.browser
def test_they_are_drawn_and_fit_a_phone(tmp_path: Path) -> None:
    store(tmp_path, {"north": 2.0, "south": 0.3, "tiny": 1.0})
    assert finish_inside(tmp_path, "report", "--by", "site", "--ensembles", "seeds").returncode == 0
    with browser(tmp_path / "profile") as chrome:
        chrome.get((tmp_path / "results/report.html").as_uri())
        settle(chrome)
        assert console(chrome) == []
        assert texts(chrome, "#by-0 tbody th") == ["LoRA"]
        assert texts(chrome, "#ensembles tbody th") == ["LoRA", "Ensemble of 2 seeds: LoRA"]
        set_width(chrome, 390)
        assert chrome.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
