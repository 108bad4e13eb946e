"""Stacked bars of what fills a peak: their parts, their sum, and a look that survives grey."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from benchmarks.report import breakdown_plot, canvas
from benchmarks.report.breakdown_plot import KINDS, plot_breakdown

MIB = 2**20
PARTS = {"parameters": 100, "activations: attention scores": 700, "activations: gate": 150, "workspace": 50}


def breakdown(**changes: Any) -> pd.DataFrame:
    point = {"backbone": "vit", "resolution": 512, "batch_size": 16, "precision": "fp32", "attention": "eager"}
    point |= {"grad_checkpointing": False}
    sizes = {("full", "setup"): 1, ("full", "train"): 1, ("fpt", "preload"): 2, ("fpt", "train"): 1}
    rows = [
        point | {"method": method, "phase": phase, "purpose": purpose, "bytes": factor * size * MIB}
        for (method, phase), factor in sizes.items()
        for purpose, size in PARTS.items()
    ]
    return pd.DataFrame(rows).assign(**changes)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    made: list[Figure] = []

    def finish(figure: Figure, *args: Any, **kwargs: Any) -> list[Path]:
        made.append(figure)
        return canvas.finish(figure, *args, **kwargs)

    monkeypatch.setattr(breakdown_plot, "finish", finish)
    yield made


def bars(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_a_bar_for_each_method_sums_to_the_peak_of_its_run_and_a_lighter_one_to_that_of_training(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    paths = plot_breakdown(breakdown(), tmp_path / "bars.png")
    assert [path.name for path in paths] == ["bars.png", "bars.pdf"]
    with Image.open(paths[0]) as image:
        assert image.width == 2100
    sizes, shares = drawn[0].axes
    assert [label.get_text() for label in sizes.get_yticklabels()] == [
        "Full fine-tuning",
        "FPT, preload",
        "FPT, training alone",
    ]
    ends: dict[Any, float] = {}
    for bar in bars(sizes):
        ends[round(bar.get_y(), 2)] = max(ends.get(round(bar.get_y(), 2), 0.0), bar.get_x() + bar.get_width())
    assert list(ends.values()) == pytest.approx([1000 / 1024, 2000 / 1024, 1000 / 1024])
    assert [np.asarray(line.get_xdata()).tolist() for line in sizes.lines] == [
        pytest.approx([2000 / 1024, 1000 / 1024])
    ]
    looks = {(round(bar.get_height(), 2), bar.get_alpha()) for bar in bars(sizes)}
    assert looks == {(0.72, 1), (0.4, 0.5)}
    assert max(bar.get_x() + bar.get_width() for bar in bars(shares)) == pytest.approx(100)
    assert [text.get_text().strip() for text in sizes.texts] == ["1000 MiB", "2.0 GiB", "1000 MiB"]
    labels = [text.get_text() for legend in drawn[0].legends for text in legend.get_texts()]
    assert labels == ["parameters", "attention scores", "gate", "workspace"]
    said = " ".join(text.get_text() for text in drawn[0].texts)
    assert "512 px, batch 16, fp32, eager attention" in said.replace("\n", " ")


def test_what_varies_stands_at_the_bars(tmp_path: Path, drawn: list[Figure]) -> None:
    both = pd.concat([breakdown(), breakdown(attention="sdpa", grad_checkpointing=True)])
    plot_breakdown(both[both["method"] == "full"], tmp_path / "bars.png")
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == [
        "Full fine-tuning, eager attention, no checkpointing",
        "Full fine-tuning, fused attention, gradient checkpointing",
    ]


def test_kinds_differ_without_colour() -> None:
    """No two kinds share a hatch unless their greys lie well apart."""
    from matplotlib.colors import to_rgb

    looks = [(hatch, sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(fill), strict=True)))
             for fill, hatch in KINDS.values()]  # fmt: skip
    for index, (hatch, grey) in enumerate(looks):
        for other_hatch, other_grey in looks[index + 1 :]:
            assert hatch != other_hatch or abs(grey - other_grey) > 0.03


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="breakdown must hold at least one phase of training or inference, got none"):
        plot_breakdown(breakdown(phase="setup"), tmp_path / "bars.png")
