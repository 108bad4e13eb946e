"""Draws docs/architecture.svg from the real imports: the rooms in the layers of pyproject.toml, who imports whom."""

import itertools
import json
import math
import random
import re
import tomllib
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import grimp
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from benchmarks.environment import ROOT

PACKAGES = ("benchmarks", "datasets", "methods")
STALE_LINES, STALE_SHARE = 50, 0.25  # a drawing is stale where a room's lines have changed by more than either
WIDTH, HEIGHT = 1.7, 0.46  # of a box, in inches
COLUMN, ROW = 1.95, 0.82  # from box to box
COLUMNS = 5
SWAPS, HEAT = 6000, 10.0  # how many are tried; by how much the first may make it worse

Place = tuple[float, float]


@dataclass(frozen=True)
class Room:
    """A package or module that the contract names.

    Attributes:
        name: As in the contract.
        modules: How many files, `__init__.py` aside.
        lines: Of all its files.
        imports: The rooms it imports, sorted.
    """

    name: str
    modules: int
    lines: int
    imports: tuple[str, ...]


def read_layers() -> list[list[str]]:
    """The layers of the contract, the top one first.

    Raises:
        ValueError: A package or module of `benchmarks/` is in none, or one is named that does not exist.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    layers = [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
    named = {name for layer in layers for name in layer}
    paths = [path for path in (ROOT / "benchmarks").iterdir() if path.suffix == ".py" or any(path.rglob("*.py"))]
    there = {f"benchmarks.{path.stem}" for path in paths if path.stem != "__init__"} | {"datasets", "methods"}
    for name in sorted(there ^ named):
        where = "is in no layer" if name in there else "is a layer but no package"
        raise ValueError(f"rooms must be those of the contract in pyproject.toml, got {name!r}, which {where}")
    return layers


def read_rooms() -> dict[str, Room]:
    """Each room by name, with the imports that its files really have."""
    graph = grimp.build_graph(*PACKAGES)
    names = [name for layer in read_layers() for name in layer]
    rooms = {}
    for name in names:
        modules = {name} | graph.find_descendants(name)
        imported = {there for here in modules for there in graph.find_modules_directly_imported_by(here)}
        others = {_room_of(module, names) for module in imported} - {name, None}
        path = ROOT / name.replace(".", "/")
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        lines = sum(len(file.read_text().splitlines()) for file in files)
        count = sum(file.name != "__init__.py" for file in files)
        rooms[name] = Room(name, count, lines, tuple(sorted(str(other) for other in others)))
    return rooms


def _room_of(module: str, names: list[str]) -> str | None:
    return next((name for name in names if module == name or module.startswith(f"{name}.")), None)


def rows_of(rooms: dict[str, Room]) -> list[list[Room]]:
    """The layers from the top, neighbours put into one row where none of them imports another.

    The last row has the modules below all rooms.
    """
    layers = read_layers()
    lowest = max(number for number, layer in enumerate(layers) if any(map(is_room, layer)))
    rows: list[list[Room]] = [[]]
    for layer in reversed(layers[: lowest + 1]):
        below = {room.name for room in rows[0]}
        if any(below & set(rooms[name].imports) for name in layer) or len(rows[0]) + len(layer) > COLUMNS:
            rows.insert(0, [])
        rows[0] = [rooms[name] for name in layer] + rows[0]
    return [*rows, [rooms[name] for layer in layers[lowest + 1 :] for name in layer]]


def is_drawn(path: Path) -> bool:
    """Whether a drawing shows the rooms, layers and imports of today, and about as many lines."""
    if not path.exists():
        return False
    description = re.search(r"<dc:description>(.*?)</dc:description>", path.read_text(), re.DOTALL)
    drawn = json.loads(unescape(description[1])) if description else {"rows": [], "imports": {}, "lines": {}}
    now = _described()
    sizes = [(drawn["lines"].get(name, 0), lines) for name, lines in now["lines"].items()]
    close = all(abs(before - after) <= max(STALE_LINES, STALE_SHARE * after) for before, after in sizes)
    return close and drawn["rows"] == now["rows"] and drawn["imports"] == now["imports"]


def _described() -> dict[str, Any]:
    rooms = read_rooms()
    return {
        "rows": [[room.name for room in row] for row in rows_of(rooms)],
        "imports": {room.name: list(room.imports) for room in rooms.values()},
        "lines": {room.name: room.lines for room in rooms.values()},
    }


def draw(path: Path) -> None:
    """Writes the drawing; what it shows stands in its description, for `is_drawn`."""
    settings: dict[Any, Any] = {"svg.hashsalt": "architecture", "svg.fonttype": "none", "font.family": "DejaVu Sans"}
    with matplotlib.rc_context(settings):
        figure = draw_rooms(read_rooms())
        figure.savefig(path, metadata={"Date": None, "Creator": None, "Description": json.dumps(_described())})


def draw_rooms(rooms: dict[str, Room]) -> Figure:
    """The rooms as boxes; a line down for each import, faint where it can be reached over other lines too.

    The modules below all rooms may be imported by any: lines to these are left out.
    """
    rows = rows_of(rooms)
    *names, lowest = [[room.name for room in row] for row in rows]
    edges = {room.name: [name for name in room.imports if name not in lowest] for room in rooms.values()}
    direct = {
        (name, other)
        for name, others in edges.items()
        for other in others
        if not any(other in _reached(edges, between) for between in others if between != other)
    }
    places = _arrange(names, direct)
    y = -len(names) * ROW
    places |= {name: ((i + 0.5) * COLUMNS * COLUMN / len(lowest), y) for i, name in enumerate(lowest)}
    figure = Figure(figsize=(COLUMNS * COLUMN, len(rows) * ROW))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, COLUMNS * COLUMN), ylim=(-len(rows) * ROW + ROW / 2, ROW / 2))
    axes.set_axis_off()
    for name, others in edges.items():
        for other in others:
            _arrow(axes, places[name], places[other], faint=(name, other) not in direct)
    for room in rooms.values():
        _box(axes, places[room.name], room)
    axes.text(COLUMNS * COLUMN / 2, y + 0.36, "any room may import:", ha="center", size=8, color="0.35")
    return figure


def is_room(name: str) -> bool:
    """Whether a name of the contract is a package; else it is a module."""
    return (ROOT / name.replace(".", "/")).is_dir()


def _reached(edges: dict[str, list[str]], name: str) -> set[str]:
    return {*edges[name]}.union(*(_reached(edges, other) for other in edges[name]))


def _arrange(rows: list[list[str]], edges: set[tuple[str, str]]) -> dict[str, Place]:
    """Places for the boxes of each row, so that lines are short and keep off boxes and each other.

    By simulated annealing: swaps within a row, of which those for the worse become ever rarer.
    """
    slots: list[list[str | None]] = [[*row, *[None] * (COLUMNS - len(row))] for row in rows]
    chance = random.Random(0)
    places = best = _places(slots)
    cost = lowest = _cost(best, edges)
    for swap in range(SWAPS):
        row = chance.choice(slots)
        i, j = chance.sample(range(COLUMNS), 2)
        row[i], row[j] = row[j], row[i]
        places = _places(slots)
        now = _cost(places, edges)
        if now <= cost or chance.random() < math.exp((cost - now) / (HEAT * (1 - swap / SWAPS))):
            cost = now
        else:
            row[i], row[j] = row[j], row[i]
        if cost < lowest:
            lowest, best = cost, places
    return best


def _places(slots: list[list[str | None]]) -> dict[str, Place]:
    return {
        name: ((column + 0.5) * COLUMN, -number * ROW)
        for number, row in enumerate(slots)
        for column, name in enumerate(row)
        if name is not None
    }


def _cost(places: dict[str, Place], edges: set[tuple[str, str]]) -> float:
    lines = [(places[name], places[other]) for name, other in sorted(edges)]
    cost = 0.0
    for (x, y), (to_x, to_y) in lines:
        cost += abs(to_x - x)
        for box_x, box_y in places.values():
            if to_y < box_y < y:  # a box of a row in between: does the line pass behind it, or nearly?
                above, below = (x + (to_x - x) * (y - end) / (y - to_y) for end in (box_y + HEIGHT, box_y - HEIGHT))
                cost += 20 * (min(above, below) < box_x + WIDTH / 2 and max(above, below) > box_x - WIDTH / 2)
    for (start, end), (start2, end2) in itertools.combinations(lines, 2):
        if start[1] == start2[1] and end[1] == end2[1]:
            cost += 2 * ((start[0] - start2[0]) * (end[0] - end2[0]) < 0)
    return cost


def _arrow(axes: Axes, start: Place, end: Place, faint: bool) -> None:
    style = {"color": "0.88", "linewidth": 0.6} if faint else {"color": "0.35", "linewidth": 1.1}
    axes.annotate(
        "",
        xy=(end[0], end[1] + HEIGHT / 2),
        xytext=(start[0], start[1] - HEIGHT / 2),
        arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8, **style},
        zorder=1 if faint else 2,
    )


def _box(axes: Axes, place: Place, room: Room) -> None:
    x, y = place
    colour = "#E8F1FA" if room.name.startswith("benchmarks.") else "#FFF3DC"
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=colour if is_room(room.name) else "0.96",
            edgecolor="0.35",
            linewidth=0.8,
            zorder=3,
        )
    )
    kind = "/" if is_room(room.name) else ".py"
    axes.text(x, y + 0.09, room.name.removeprefix("benchmarks.") + kind, ha="center", va="center", size=11, zorder=4)
    size = f"{room.modules} files, " if kind == "/" else ""
    axes.text(x, y - 0.12, f"{size}{room.lines:,} lines", ha="center", va="center", size=8, color="0.35", zorder=4)
