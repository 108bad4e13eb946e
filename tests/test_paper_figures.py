"""What a paper needs of a figure: the table's intervals and flags, nothing hidden, ticks and names that can be read."""

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixed_records import METHOD_FACTS, fixed_records, make_record, store_with_predictions
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from skimage.color import deltaE_ciede2000, rgb2lab
from test_plots import texts, watch

from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.front import Front, find_front
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import summary
from benchmarks.records.frame import load_frame, runs_frame
from benchmarks.records.record import store_run
from benchmarks.records.schema import Record
from benchmarks.report import auc_plot
from benchmarks.report.auc_plot import as_curves
from benchmarks.report.axes import auc_limits, byte_ticks
from benchmarks.report.figure_captions import point_marks
from benchmarks.report.page_data import _SYMBOLS, collect
from benchmarks.report.places import MARKER, WHISKER, Box, dodged, placed_labels
from benchmarks.report.plots import write_plots
from benchmarks.report.style import styles
from benchmarks.report.trade_off_plot import told_apart_inside
from methods import TITLES

MIB, GIB = 2.0**20, 2.0**30
SKILLS = dict(zip(METHOD_FACTS, (2.2, 0.6, 1.9, 0.85, 1.35, 1.1, 1.6), strict=True))


def stored(folder: Path, records: list[Record], same: bool = False) -> tuple[pd.DataFrame, Any]:
    """Records and predictions of their skill in a folder; the frame and evidence of them."""
    for record in records:
        if record["status"]["state"] == "ok":
            skill = 1.2 if same else SKILLS[record["run"]["config"]["method"]]
            store_with_predictions(folder, record, skill, num_images=400)
        else:
            store_run(folder, record, None)
    frame, _ = load_frame(folder)
    return frame, load_evidence(folder, frame)[0]


def segments(figure: Figure) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The two ends of every whisker."""
    found = [
        part
        for axes in figure.axes
        for lines in axes.collections
        if isinstance(lines, LineCollection)
        for part in lines.get_segments()
    ]
    return [((float(a[0]), float(a[1])), (float(b[0]), float(b[1]))) for a, b in found]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[str, Figure]]:
    """The table and the figures of three resolutions and seeds, with failures and a rate at the edge of its grid."""
    folder = tmp_path_factory.mktemp("three")
    frame, evidence = stored(folder, fixed_records(seeds=3))
    frame.loc[(frame["method"] == "adapter") & (frame["resolution"] == 448), "tuned_at_edge"] = True
    with pytest.MonkeyPatch.context() as monkeypatch:
        figures = watch(monkeypatch)
        monkeypatch.setattr(auc_plot, "as_curves", lambda *_: True)  # rows are tested where curves coincide
        paths = write_plots(folder, frame, evidence)
    names = [path.name.split("_")[0] for path in paths[::2]]
    return add_significance(summary(frame), evidence), dict(zip(names, figures, strict=True))


def test_whiskers_are_the_intervals_of_the_table(three: tuple[pd.DataFrame, dict[str, Figure]]) -> None:
    table, figures = three
    known = table[table["auc_low"].notna()]
    expected = sorted(map(tuple, (100 * known[["auc_low", "auc_high"]]).to_numpy(dtype=float)))
    assert len(expected) == 7 * 3 - 2
    for name, axis in (("auc-over-memory", 1), ("auc-over-resolution", 1)):
        ends = sorted((low[axis], high[axis]) for low, high in segments(figures[name]))
        assert np.array(ends) == pytest.approx(np.array(expected)), name


def test_flags_of_the_table_are_on_points_and_in_captions(three: tuple[pd.DataFrame, dict[str, Figure]]) -> None:
    table, figures = three
    marks = {(row["method"], row["resolution"]): point_marks(row) for _, row in table.iterrows()}
    flagged = {("full", 896): "§", ("vpt", 896): "§", ("lora", 448): "§ 2/3", ("adapter", 448): "¶"}
    assert {place: mark for place, mark in marks.items() if mark} == flagged
    trade_off, curves = figures["auc-over-memory"], figures["auc-over-resolution"]
    names = {text.get_text() for axes in trade_off.axes for text in axes.texts}
    assert {"LoRA § 2/3", "Adapter ¶"} <= names
    assert {"§ 2/3", "¶"} <= {text.get_text() for text in curves.axes[0].texts}
    for figure in (trade_off, curves):
        said = texts(figure).replace("\u00a0", " ")
        assert (
            "§ Out of memory: Full fine-tuning at 896 px; diverged: VPT-Deep at 896 px; failed: LoRA at 448 px." in said
        )
        assert "¶ The best learning rate lies at the edge" in said and "Fewer seeds than others there" in said
        assert "whiskers: its 95 % interval, over images and seeds" in said


def test_no_marker_and_no_whisker_hides_another(three: tuple[pd.DataFrame, dict[str, Figure]]) -> None:
    _, figures = three
    for name in ("auc-over-memory", "auc-over-resolution"):
        figure = figures[name]
        for axes in figure.axes:
            points = []
            containers: list[Any] = list(axes.containers)
            for container in containers:
                line, _, (bars,) = container.lines
                for x, y, bar in zip(line.get_xdata(), line.get_ydata(), bars.get_segments(), strict=True):
                    places = axes.transData.transform([(x, y), *bar]) * 72 / figure.dpi
                    points.append((*places[0], *np.sort(places[1:, 1])))
            for (ax, ay, alow, ahigh), (bx, by, blow, bhigh) in combinations(points, 2):
                assert abs(ax - bx) > 4.4 or abs(ay - by) > 4.4, name  # a marker is 4.5 points wide
                assert abs(ax - bx) > 2.9 or alow > bhigh or blow > ahigh, name  # caps are 3 points wide


def test_what_is_moved_apart_keeps_its_order_and_its_middle() -> None:
    rng = np.random.default_rng(1)
    for num in (1, 2, 5, 12):
        places = np.stack([rng.normal(100, 3, num), rng.normal(50, 10, num)], axis=1)
        reach = rng.uniform(0, 20, (2, num))
        moved = dodged(places, reach, (0, 300))
        order = np.argsort(places[:, 0])
        for i, j in combinations(order.tolist(), 2):
            if abs(places[i, 1] - places[j, 1]) < MARKER:
                assert moved[j] - moved[i] > MARKER - 0.1
            high, low = places[:, 1] + reach[1], places[:, 1] - reach[0]
            if low[i] < high[j] and low[j] < high[i]:
                assert moved[j] - moved[i] > WHISKER - 0.1
        assert moved.mean() == pytest.approx(places[:, 0].mean(), abs=1e-6)
    at_wall = dodged(np.array([[299.0, 5], [299.0, 5], [299.0, 5]]), np.zeros((2, 3)), (0, 300))
    assert at_wall.max() <= 300 - MARKER / 2 and min(np.diff(np.sort(at_wall))) > MARKER - 0.1
    apart = np.array([[0.0, 0], [50.0, 0]])
    assert dodged(apart, np.zeros((2, 2)), (-10, 60)).tolist() == [0, 50]


def test_labels_hide_neither_each_other_nor_points_where_there_is_room() -> None:
    points = np.array([[50.0, 50], [60.0, 52], [52.0, 60], [150.0, 20], [155.0, 95]])
    sizes = np.array([[40.0, 8]] * 5)
    boxes = [Box(x - 3, y - 3, x + 3, y + 3) for x, y in points.tolist()]
    frame = Box(0, 0, 200, 100)
    middles = placed_labels(points, sizes, boxes, frame)
    placed = [Box(x - 20, y - 4, x + 20, y + 4) for x, y in middles.tolist()]
    for one, other in [*combinations(placed, 2), *((label, point) for label in placed for point in boxes)]:
        across = min(one.right, other.right) - max(one.left, other.left)
        assert across <= 0 or min(one.top, other.top) - max(one.bottom, other.bottom) <= 0
    assert all(box.left >= 0 and box.right <= 200 and box.bottom >= 0 and box.top <= 100 for box in placed)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (40 * MIB, 700 * MIB, 9, [64 * MIB, 128 * MIB, 256 * MIB, 512 * MIB]),
        (10 * MIB, 80 * GIB, 4, [16 * MIB, 256 * MIB, 4 * GIB, 64 * GIB]),
        (900 * MIB, 1900 * MIB, 5, [1 * GIB, 1.5 * GIB]),
        (1100 * MIB, 1800 * MIB, 5, [1.25 * GIB, 1.5 * GIB, 1.75 * GIB]),
    ],
)  # fmt: skip
def test_ticks_of_bytes_double(low: float, high: float, most: int, expected: list[float]) -> None:
    ticks, between = byte_ticks(low, high, most)
    assert ticks == expected and len(ticks) <= most
    assert all(low <= tick <= high for tick in [*ticks, *between])
    if between:
        steps = [b / a for a, b in pairwise(sorted([*ticks, *between]))]
        assert steps == [2.0] * len(steps)


def front_rows(values: dict[str, tuple[float, float, float | None]]) -> pd.DataFrame:
    """Cells of one resolution: memory, AUC, p that it is the best."""
    best = max(values, key=lambda name: values[name][1])
    rows = [
        {"label": name, "memory_bytes": memory, "auc_mean": auc, "vs_best_p": p, "is_best": name == best}
        for name, (memory, auc, p) in values.items()
    ]
    return pd.DataFrame(rows).assign(complete=True, memory_source="measured", resolution=448)


def test_the_band_is_of_what_is_not_told_apart_from_the_best() -> None:
    rows = front_rows(
        {"a": (1, 0.70, 0.001), "b": (2, 0.80, 0.01), "c": (4, 0.86, 0.2), "d": (8, 0.87, 0.03), "e": (9, 0.9, 1.0)}
    )
    front = find_front(rows)
    assert front == Front([(1, 0.7), (2, 0.8)], ["c", "e"], 4, 0.86, 0.9)
    assert told_apart_inside(rows, [front]) == ["d at 448 px"]
    untested = find_front(rows.assign(vs_best_p=np.nan))
    assert untested == Front([(1, 0.7), (2, 0.8), (4, 0.86), (8, 0.87), (9, 0.9)], [])
    predicted = rows.assign(memory_source=["predicted", *["measured"] * 4])
    assert find_front(predicted).steps == [(2, 0.8)]  # never across sources
    assert find_front(rows.assign(complete=[False, *[True] * 4])).steps == [(2, 0.8)]


def curve_rows(aucs: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    rows = [
        {"label": name, "resolution": 224 * (i + 1), "auc_mean": auc, "auc_low": auc - 0.02, "auc_high": auc + 0.02}
        for name, own in aucs.items()
        for i, auc in enumerate(own)
    ]
    return pd.DataFrame(rows)


def test_lines_are_drawn_only_where_they_say_something() -> None:
    apart = curve_rows({"a": (0.7, 0.8, 0.85), "b": (0.75, 0.85, 0.93)})
    assert as_curves(apart, auc_limits(apart))
    assert not as_curves(apart[apart["resolution"] < 672], (60, 100))  # two points
    assert not as_curves(apart.assign(auc_low=np.nan), (60, 100))  # no interval
    same = curve_rows({"a": (0.7, 0.8, 0.9), "b": (0.701, 0.801, 0.899), "c": (0.8, 0.85, 0.95)})
    assert not as_curves(same, auc_limits(same))  # a and b coincide
    many = pd.concat(
        [apart.assign(label=f"{label}{i}", auc_mean=apart["auc_mean"] - i / 99) for i in range(13) for label in "x"]
    )
    assert not as_curves(many, (0, 100))


def test_where_curves_coincide_methods_have_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = watch(monkeypatch)
    records = [make_record(method, side, seed) for method in METHOD_FACTS for side in (224, 448) for seed in (0, 1)]
    frame, evidence = stored(tmp_path, records, same=True)
    write_plots(tmp_path, frame, evidence)
    memory, _, auc = figures
    for figure in (memory, auc):
        assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(
            dict.fromkeys(summary(frame)["label"])
        )
        assert len(figure.axes) == 2
        containers: list[Any] = [points for axes in figure.axes for points in axes.containers]
        assert {points.lines[0].get_linestyle() for points in containers} == {"None"}
    ends = sorted((low[0], high[0]) for low, high in segments(auc))
    table = add_significance(summary(frame), evidence)
    assert np.array(ends) == pytest.approx(
        np.array(sorted(map(tuple, (100 * table[["auc_low", "auc_high"]]).to_numpy(dtype=float))))
    )


def test_chance_is_a_line_where_the_axis_is_near_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = watch(monkeypatch)
    near, far = (
        make_record("lora", auc=0.55),
        make_record("lora", auc=0.9, config={"dataset": "far"}, dataset={"title": "Far"}, tag="f"),
    )
    write_plots(tmp_path, runs_frame([near, far]))
    said = [texts(figure) for figure in figures if "AUC of one seed" in texts(figure)]
    assert sorted("Dotted line: chance (50)." in text for text in said) == [False, False, True, True]
    assert sorted("Chance (50) lies below the axis." in text for text in said) == [False, False, True, True]
    drawn = [
        any(
            [50, 50] in (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
            for line in figure.axes[0].lines
        )
        for figure in figures
        if "AUC of one seed" in texts(figure)
    ]
    assert drawn == ["Dotted line" in text for text in said]


def test_each_method_has_a_pair_of_its_own_in_figures_and_on_the_page(tmp_path: Path) -> None:
    looks = styles(TITLES.items())
    assert len(looks) == len(TITLES) > 40
    for one, other in combinations(looks.values(), 2):
        if one.marker == other.marker:
            pair = [rgb2lab(np.array([[to_rgb(look.colour)]])) for look in (one, other)]
            assert float(deltaE_ciede2000(*pair)[0, 0]) > 20  # 1 is just noticed side by side
    stored(tmp_path, [make_record(method) for method in METHOD_FACTS])
    page = collect(tmp_path, tmp_path).shown["styles"]
    shown = {TITLES[method] for method in METHOD_FACTS}
    assert {label: page[label]["colour"] for label in shown} == {label: looks[label].colour for label in shown}
    assert {label: page[label]["symbol"] for label in shown} == {
        label: _SYMBOLS[looks[label].marker] for label in shown
    }
