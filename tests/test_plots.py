"""Figures from a fixed set of records: that they are written, the same each time, and hold what they must."""

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fixed_records import METHOD_FACTS, MIB, fallback_records, fixed_records, make_record
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.analysis.front import pareto_front
from benchmarks.analysis.summary import method_rank
from benchmarks.records.frame import runs_frame
from benchmarks.records.schema import Record
from benchmarks.report import canvas, plots
from benchmarks.report.memory_plot import plot_memory_curves
from benchmarks.report.page_data import _SYMBOLS
from benchmarks.report.places import moved_apart
from benchmarks.report.plots import write_plots
from benchmarks.report.style import Style, styles
from methods import METHODS, TITLES


def watch(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """A list that will hold each figure that is written."""
    seen: list[Figure] = []
    write = canvas._write

    def keep(figure: Figure, path: Path) -> Path:
        if path.suffix == ".png":
            seen.append(figure)
        return write(figure, path)

    monkeypatch.setattr(canvas, "_write", keep)
    monkeypatch.setattr(plots, "MOST_PROCESSES", 1)  # another one's would not be seen
    return seen


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that the test writes."""
    return watch(monkeypatch)


class Suite(NamedTuple):
    """Figures of three suites: three resolutions and seeds, a laptop's, one resolution; and ranks over six datasets."""

    paths: list[Path]
    figures: list[Figure]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The figures of the fixed records, written once."""
    one_side = [make_record(method, 448, seed) for method in METHOD_FACTS for seed in (0, 1)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = watch(monkeypatch)
        folder = tmp_path_factory.mktemp("results")
        paths = [
            path
            for i, records in enumerate((fixed_records(), fallback_records(), one_side))
            for path in write_plots(folder / str(i), runs_frame(records))
        ]
        monkeypatch.setattr(plots, "blocks", lambda table: ())  # no figures of each dataset
        paths += write_plots(folder / "ranks", runs_frame(datasets_records()))
    with matplotlib.rc_context(canvas.rc()):
        for figure in seen:
            figure.draw_without_rendering()  # the pdf was the last to place the text, at its own resolution
    return Suite(paths, seen)


def datasets_records() -> list[Record]:
    """Seven methods on six datasets; one of each pair is the better by as much in all, but for FPT+ and the adapter."""
    return [
        make_record(
            method,
            auc=facts[3] + (0.02 * (-1) ** i if method == "fpt_plus" else 0) - 0.01 * i,
            tag=f"d{i}",
            config={"dataset": f"d{i}"},
            dataset={"title": f"Data {i}"},
        )
        for method, facts in METHOD_FACTS.items()
        for i in range(6)
    ]


def texts(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def memory_points(**changes: Any) -> pd.DataFrame:
    same = {"backbone": "vit_base_patch16_384", "batch_size": 16, "precision": "fp32", "grad_checkpointing": False}
    points = [
        same
        | {
            "method": method,
            "resolution": side,
            "attention": attention,
            "phase": phase,
            "source": source,
            "status": "ok",
        }
        | {"peak_allocated_bytes": memory * MIB * side // 448}
        for method, (*_, train, preload) in METHOD_FACTS.items()
        for side in (224, 512, 1024)
        for attention in ("eager", "sdpa")
        for phase, memory in (("whole run", max(train, preload or 0)), ("train", train), ("preload", preload))
        for source in ("measured", "predicted")
        if memory is not None
    ]
    return pd.DataFrame(points).assign(**changes)


@pytest.mark.slow
def test_three_figures_a_suite_and_ranks_over_datasets_as_png_and_pdf(suite: Suite) -> None:
    assert len(suite.paths) == 18 + 2  # resolutions of one dataset are no rows
    assert len(suite.figures) == 9 + 1
    names = {path.name.split("_")[0] for path in suite.paths}
    assert names == {"memory", "auc-over-memory", "auc-over-resolution", "ranks"}
    assert sorted({path.suffix for path in suite.paths}) == [".pdf", ".png"]
    assert plt.get_fignums() == []


def test_figures_state_data_and_protocol(suite: Suite) -> None:
    for figure in suite.figures:
        assert "(synthetic, not clinical)" in texts(figure)
        assert "batch size 16" in texts(figure)
    assert all(
        "vit_base_patch16_384, weights from the model hub" in texts(figure)
        for figure in [*suite.figures[:3], suite.figures[9]]
    )
    assert all("‡ Fallback backbone in place of vit_base_patch16_384" in texts(figure) for figure in suite.figures[3:6])
    assert "predicted, not measured" in texts(suite.figures[3])


def test_figures_are_the_same_each_time(tmp_path: Path) -> None:
    frame = runs_frame([make_record("fpt"), make_record("lora")])
    first = [path.read_bytes() for path in write_plots(tmp_path / "a", frame)]
    assert [path.read_bytes() for path in write_plots(tmp_path / "b", frame)] == first


def test_text_is_never_smaller_than_seven_points_and_never_outside(suite: Suite) -> None:
    for figure in suite.figures:
        assert figure.get_size_inches()[0] in (3.5, 7.0)  # the widths of a column and of a page
        parts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
        parts += [text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label, *axes.texts)]
        box = figure.bbox
        for text in parts:
            if text.get_text():
                extent = text.get_window_extent()
                assert float(text.get_fontsize()) >= 7
                assert extent.x0 >= box.x0 - 1 and extent.x1 <= box.x1 + 1, text.get_text()
                assert extent.y0 >= box.y0 - 1 and extent.y1 <= box.y1 + 1, text.get_text()


def test_legends_axes_and_caption_do_not_overlap(suite: Suite) -> None:
    leading = 8  # pixels of 300 to the inch, the empty part of a line
    for figure in suite.figures:
        heading, caption, *labels = figure.texts
        lowest = max(label.get_window_extent().y1 for label in [caption, *labels])
        assert all(label.get_window_extent().y0 >= caption.get_window_extent().y1 - leading for label in labels)
        stack = [heading.get_window_extent(), *(legend.get_window_extent() for legend in figure.legends)]
        for upper, lower in pairwise(stack):
            assert upper.y0 >= lower.y1 - leading
        for axes in figure.axes:
            box = axes.get_tightbbox()
            assert box is not None
            assert box.y1 <= stack[-1].y0 + leading
            assert box.y0 >= lowest - leading


def test_titles_are_those_of_the_methods() -> None:
    assert list(TITLES.items()) == [(name, method.title) for name, method in METHODS.items()]


@pytest.mark.process
def test_many_figures_are_drawn_in_processes_and_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = runs_frame([make_record("full"), make_record("fpt"), *fallback_records()])
    alone = write_plots(tmp_path / "alone", frame)
    said = capsys.readouterr().err
    monkeypatch.setattr(plots, "MANY", 1)
    monkeypatch.setattr(plots, "MOST_PROCESSES", 2)
    together = write_plots(tmp_path / "together", frame)
    assert [path.name for path in together] == [path.name for path in alone] != []
    assert [path.read_bytes() for path in together] == [path.read_bytes() for path in alone]
    assert capsys.readouterr().err == said


def test_each_method_has_a_style_of_its_own() -> None:
    chosen = styles((name, METHODS[name].title) for name in METHODS)
    assert len({(look.colour, look.marker) for look in chosen.values()}) == len(METHODS)
    first = [chosen[method.title] for method in METHODS.values()][:12]
    assert len({look.marker for look in first}) == 12  # as many as there are
    alone = styles([("fpt", METHODS["fpt"].title)])
    assert alone[METHODS["fpt"].title] == chosen[METHODS["fpt"].title]  # the same in every figure
    variants = styles([("lora", "LoRA (rank 8)"), ("lora", "LoRA (rank 16)")])
    assert len(set(variants.values())) == 2


@pytest.fixture
def sixty(monkeypatch: pytest.MonkeyPatch) -> dict[str, Style]:
    """The styles of a table of sixty methods, in its order."""
    for i in range(len(TITLES), 60):
        monkeypatch.setitem(TITLES, f"method_{i}", f"Method {i}")
    looks = styles((name, name) for name in TITLES)
    return {name: looks[name] for name in TITLES}


def test_sixty_methods_stay_apart_and_full_has_black_for_itself(sixty: dict[str, Style]) -> None:
    pairs = [(look.colour, look.marker) for look in sixty.values()]
    assert len(set(pairs)) == len(pairs) == 60
    assert [name for name, look in sixty.items() if look.colour == "#000000"] == ["full"]
    assert all(
        first != second for one, next_one in pairwise(pairs) for first, second in zip(one, next_one, strict=True)
    )
    assert {look.marker for look in sixty.values()} <= set(_SYMBOLS)  # what the page draws
    some = styles([(name, name) for name in ("method_59", "fpt", "method_58")])
    assert some == {name: sixty[name] for name in some}
    unknown = styles([*((name, name) for name in TITLES), ("full", "full (lr 1)"), ("gone", "Gone")])
    assert {name: unknown[name] for name in TITLES} == sixty
    assert len({(look.colour, look.marker) for look in unknown.values()}) == 62
    assert "#000000" not in (unknown["full (lr 1)"].colour, unknown["Gone"].colour)


# As it is, and simulated for readers without red, green or blue cones (Machado et al., IEEE TVCG 15, 2009, severity 1).
VISION = {
    "all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour: str, vision: str) -> Any:
    """CIE L*a*b* of an sRGB colour, D65, as it is seen."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(VISION[vision]) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(("vision", "least"), [("all cones", 25), ("no red", 20), ("no green", 15), ("no blue", 15)])
def test_colours_that_share_a_marker_are_told_apart(sixty: dict[str, Style], vision: str, least: float) -> None:
    # A difference of 2.3 is just noticed side by side.
    looks = combinations(sixty.values(), 2)
    distances = [
        float(np.linalg.norm(lab(one.colour, vision) - lab(other.colour, vision)))
        for one, other in looks
        if one.marker == other.marker
    ]
    assert len(distances) > 40 and min(distances) > least


def test_nothing_to_draw_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record("lora", state="failed", message="killed")
    record["measurements"] = {}
    assert write_plots(tmp_path, runs_frame([record])) == []
    said = capsys.readouterr().err
    assert "no figure memory_demo_" in said and "no run has a GPU memory, measured or predicted" in said
    assert "no figure auc-over-resolution_demo_" in said and "no finished run has an AUC" in said
    assert write_plots(tmp_path, runs_frame([])) == []


def test_one_resolution_is_drawn_method_by_method(suite: Suite) -> None:
    memory, _, auc = suite.figures[6:9]
    for figure in (memory, auc):
        rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert rows == [METHODS[name].title for name in sorted(METHOD_FACTS, key=method_rank)]


def test_ranks_are_drawn_with_what_is_not_told_apart(suite: Suite) -> None:
    ranks = suite.figures[9]
    found = texts(ranks)
    assert "Average ranks over 6 datasets at 448 px (synthetic, not clinical)" in found
    assert "over 6 datasets: Data 0, Data 1, Data 2, Data 3, Data 4, Data 5." in found
    assert "Nemenyi critical difference 3.68 at 0.05" in found  # 2.949 sqrt(7 8 / (6 6))
    assert "LoRA −0.80 (−0.80 to −0.80), p 0.188" in found  # six of six, 2 / 2^6, times six methods
    assert "With 6 datasets no p to full can be under 0.188." in found
    shown = [text.get_text() for text in ranks.axes[0].texts]
    assert shown[:8] == [*map(str, range(1, 8)), "critical difference 3.68"]
    places = {"full": 1.5, "lora": 2.5, "fpt_plus": 3, "adapter": 3.5, "fpt": 4.5, "vpt": 6, "linear": 7}
    assert shown[8:] == [f"{METHODS[name].title} {place:.2f}" for name, place in places.items()]
    bars = [line.get_xdata() for line in ranks.axes[0].lines if line.get_linewidth() == 2.2]
    assert [ends.tolist() for ends in map(np.array, bars)] == [
        pytest.approx([1.46, 4.54]),
        pytest.approx([2.46, 6.04]),
        pytest.approx([3.46, 7.04]),
    ]
    assert ranks.legends[-1].get_texts()[0].get_text() == "not told apart (Nemenyi, 0.05)"


def test_pareto_front_keeps_what_no_other_beats() -> None:
    assert pareto_front([10, 1, 5, 5, 20], [0.9, 0.7, 0.6, 0.8, 0.85]) == [(1, 0.7), (5, 0.8), (10, 0.9)]


def test_the_whole_run_is_drawn_with_training_lighter_beside_it(suite: Suite) -> None:
    memory, trade_off = suite.figures[6:8]  # of one resolution
    for figure in (memory, trade_off):
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert "training alone" in labels
        lighter = [np.asarray(line.get_xdata()) for line in figure.axes[0].lines if line.get_alpha() is not None]
        ends = sorted((round(whole / MIB), round(training / MIB)) for whole, training in lighter)
        assert ends == [(1_420, 12), (1_730, 343), (1_730, 1_222)]  # as METHOD_FACTS has them


def test_the_front_goes_by_the_whole_run(tmp_path: Path, drawn: list[Figure]) -> None:
    # In training FPT+ needs least by far; with its preloading, LoRA here needs less.
    lora, plus = make_record("lora", auc=0.8), make_record("fpt_plus", auc=0.9)
    for phase in ("train", "eval"):
        lora["measurements"]["memory"]["phases"][phase]["peak_allocated_bytes"] = 1_000 * MIB
    write_plots(tmp_path, runs_frame([lora, plus]))
    (axes,) = drawn[1].axes
    front = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    assert (np.asarray(front.get_xdata())[:2] / MIB).tolist() == pytest.approx([1_000, 1_730])  # untested: no band
    assert np.asarray(front.get_ydata())[:2].tolist() == pytest.approx([80, 90])


def test_memory_curves_draw_attention_by_line_and_source_by_marker(tmp_path: Path, drawn: list[Figure]) -> None:
    points = memory_points()
    lost = (points["method"] == "full") & (points["resolution"] == 1024) & (points["source"] == "measured")
    points.loc[lost, ["peak_allocated_bytes", "status"]] = [None, "oom"]
    paths = plot_memory_curves(points, tmp_path / "curves.png")
    assert [path.name for path in paths] == ["curves.png", "curves.pdf"]
    with Image.open(paths[0]) as image:
        assert image.width == 1050
    figure = drawn[0]
    assert [axes.get_ylabel() for axes in figure.axes] == ["Peak GPU memory (log)", "Error (%)"]
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels[-6:-3] == ["eager attention", "fused attention", "training alone"]
    assert labels[-3:] == ["measured", "predicted", "out of memory"]
    lines = [line for line in figure.axes[0].lines if line.get_alpha() is not None]
    heights = [float(np.asarray(line.get_ydata())[1]) / MIB for line in lines]  # of training alone, at 512 px
    expected = [METHOD_FACTS[name][4] * 512 / 448 for name in ("linear", "fpt", "fpt_plus") for _ in range(2)]
    assert heights == pytest.approx(expected)
    cards = [text.get_text() for text in figure.axes[0].texts]
    assert cards == ["8 GB", "12 GB", "16 GB", "24 GB", "40 GB"]
    assert "vit_base_patch16_384, batch size 16, fp32" in texts(figure)


def test_memory_curves_split_protocols_into_panels(tmp_path: Path, drawn: list[Figure]) -> None:
    both = pd.concat([memory_points(), memory_points(precision="bf16")])
    plot_memory_curves(both, tmp_path / "curves.png")
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["fp32", "bf16", "", ""]


def test_memory_curves_refuse_what_they_cannot_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"points must have the columns of bench\.py memory, got none called phase"):
        plot_memory_curves(memory_points().drop(columns="phase"), tmp_path / "curves.png")
    with pytest.raises(ValueError, match="points must hold at least one peak_allocated_bytes, got none"):
        plot_memory_curves(memory_points(peak_allocated_bytes=None), tmp_path / "curves.png")


def test_close_card_labels_are_moved_apart() -> None:
    assert moved_apart([0.1, 0.5], 0.05) == [0.1, 0.5]
    moved = moved_apart([0.50, 0.51, 0.52], 0.05)
    assert moved[1] == pytest.approx(0.51, abs=1e-3)
    assert min(b - a for a, b in pairwise(moved)) >= 0.0499
