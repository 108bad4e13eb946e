"""README.md and docs/ are not stale: tables and drawing are those that would be made now, and paths lead somewhere."""

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.environment import ROOT
from docs import architecture, make
from docs.architecture import Room, draw, is_drawn, read_layers, rows_of
from docs.tables import BLOCKS, kept


@pytest.mark.slow
def test_nothing_is_stale() -> None:
    assert make.stale_pages(make.PAGES, write=False) == []
    assert is_drawn(make.DRAWING)


def test_every_table_stands_in_a_page() -> None:
    named = [name for page in make.PAGES for _, name, _ in make.BLOCK.findall(page.read_text())]
    assert sorted(named) == sorted(BLOCKS)


def test_a_block_is_made_anew_and_nothing_else_changes() -> None:
    page = "before\n<!-- made by docs/make.py: rooms -->\n\nold\n\n<!-- end -->\nafter\n"
    made = make.rewritten(page, {"rooms": lambda: "new"})
    assert made == page.replace("old", "new")
    with pytest.raises(ValueError, match="block must be one of methods, got 'rooms'"):
        make.rewritten(page, {"methods": lambda: ""})


def test_a_block_keeps_ten_units_once_a_gradient_passes_and_sixteen_where_all_trains() -> None:
    """Counted by hand: block input, query, key, value, attention's output, MLP's and GELU's input (4)."""
    assert (kept("full"), kept("lora"), kept("linear")) == ("16.0", "11.0", "0")


def test_paths_in_pages_are_there() -> None:
    for page in make.PAGES:
        for path in re.findall(
            r"`((?:benchmarks|datasets|methods|docs|tests|results)/[\w./-]+\.\w+)`", page.read_text()
        ):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"


def test_a_drawing_of_other_imports_or_sizes_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = tmp_path / "drawing.svg"
    assert not is_drawn(drawing)
    rooms = {name: Room(name, 1, 1000, ()) for layer in read_layers() for name in layer}
    monkeypatch.setattr(architecture, "read_rooms", lambda: rooms)
    draw(drawing)
    assert is_drawn(drawing)
    rooms["methods"] = Room("methods", 1, 1100, ())
    assert is_drawn(drawing)
    rooms["methods"] = Room("methods", 1, 1400, ())
    assert not is_drawn(drawing)
    rooms["methods"] = Room("methods", 1, 1000, ())
    rooms["benchmarks.model"] = Room("benchmarks.model", 1, 1000, ("methods",))
    assert not is_drawn(drawing)


def test_a_room_that_no_layer_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in (name for layer in read_layers() for name in layer if name.startswith("benchmarks.")):
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    monkeypatch.setattr(architecture, "ROOT", tmp_path)
    assert read_layers()
    (tmp_path / "benchmarks/cellar").mkdir()
    (tmp_path / "benchmarks/cellar/wine.py").touch()
    with pytest.raises(ValueError, match=r"got 'benchmarks\.cellar', which is in no layer"):
        read_layers()


def test_layers_that_import_each_other_stand_in_different_rows() -> None:
    rooms = architecture.read_rooms()
    *rows, lowest = rows_of(rooms)
    row_of = {room.name: number for number, row in enumerate([*rows, lowest]) for room in row}
    assert row_of.keys() == rooms.keys()
    assert {"benchmarks.choices", "benchmarks.errors"} <= {room.name for room in lowest}
    for room in (room for row in rows for room in row):
        for other in room.imports:
            assert row_of[room.name] < row_of[other], f"{room.name} imports {other}"
