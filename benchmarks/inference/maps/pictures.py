"""Pictures of maps: an image beside its overlay and curves, and a sheet of all overlays."""

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from benchmarks.inference.maps.curves import CURVES, ORDERS, Curves, area, fractions
from benchmarks.names import printable

if TYPE_CHECKING:
    from benchmarks.inference.maps.explain import Explained

COLORS = "inferno"
ON_SHEET, A_ROW = 48, 6
_STYLES = {"map": "-", "random": ":", "centre": "--"}


def overlay(image: Image.Image, values: NDArray[np.float32]) -> Image.Image:
    """A map over an image, which it covers as a whole, whatever its proportions: each patch is of one colour.

    Args:
        image: As it is looked at.
        values: The map `(h, w)`; what is below 0 is shown as 0.
    """
    height, width = values.shape
    shown = _normalized(values)(np.clip(values, 0, None))
    rows = np.minimum(((np.arange(image.height) + 0.5) * height / image.height).astype(int), height - 1)
    columns = np.minimum(((np.arange(image.width) + 0.5) * width / image.width).astype(int), width - 1)
    strength = np.asarray(shown, dtype=np.float64)[rows][:, columns, None]
    colors = matplotlib.colormaps[COLORS](strength[..., 0])[..., :3] * 255
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    mixed = 0.45 * grey + 0.55 * colors
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def draw(found: "Explained", unit: str, title: str) -> bytes:
    """A PNG: the image, its overlay with a scale, and its curves if there are any.

    Args:
        found: What is known of the image.
        unit: Of the map's numbers.
        title: Above all.
    """
    panels = 2 if found.curves is None else 4
    figure = Figure(figsize=(4.2 * panels, 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(printable(title), 50 * panels), fontsize=10)
    left, right, *others = figure.subplots(1, panels)
    left.imshow(found.image)
    left.set_title("the image", fontsize=9)
    right.imshow(overlay(found.image, found.values))
    height, width = found.values.shape
    right.set_title(f"map of {width} x {height} patches; nothing finer is known", fontsize=9)
    x, y = found.peak
    right.plot(x * found.image.width - 0.5, y * found.image.height - 0.5, "+", color="cyan", markersize=12)
    for axes in (left, right):
        axes.set_axis_off()
    figure.colorbar(ScalarMappable(_normalized(found.values), COLORS), ax=right, label=unit, shrink=0.7)
    if found.curves is not None:
        for axes, curve in zip(others, CURVES, strict=True):
            _draw_curves(axes, found.curves, curve)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def draw_sheet(found: Sequence["Explained"], title: str) -> bytes:
    """A PNG of the overlays of the first images, with what each is said to be and the areas of its curves."""
    shown = found[:ON_SHEET]
    a_row = max(3, min(A_ROW, len(shown)))
    num_rows = -(-len(shown) // a_row)
    figure = Figure(figsize=(2.4 * a_row, 0.6 + 2.9 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    more = f"; the first {ON_SHEET} of {len(found)} images" if len(found) > ON_SHEET else ""
    figure.suptitle(textwrap.fill(printable(title + more), 26 * a_row), fontsize=10)
    for axes, each in zip(figure.subplots(num_rows, a_row, squeeze=False).flat, shown, strict=False):
        axes.imshow(overlay(each.image, each.values))
        axes.set_title(_caption(each), fontsize=6.5, parse_math=False)
    for axes in figure.axes:
        axes.set_axis_off()
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def _caption(found: "Explained") -> str:
    """What stands above an overlay."""
    lines = [_fitting(found.path.name), f"{_fitting(found.label)} {found.probability:.2f}"]
    if found.curves is not None:
        for curve in CURVES:
            areas = [f"{area(found.curves[curve, order]):.2f}" for order in ORDERS]
            lines.append(f"{curve} {areas[0]}, random {areas[1]}, centre {areas[2]}")
    return "\n".join(lines)


def _fitting(text: str, most: int = 32) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[: most // 3]}…{text[-(most - most // 3) :]}"


def _draw_curves(axes: "matplotlib.axes.Axes", curves: Curves, curve: str) -> None:
    for order in ORDERS:
        values = curves[curve, order]
        x = 100 * fractions(len(values) - 1)
        axes.plot(x, values, _STYLES[order], color="black", label=f"{order}: area {area(values):.3f}")
    better = "lower" if curve == "deletion" else "higher"
    axes.set_title(f"{curve} ({better} is better)", fontsize=9)
    axes.set_xlabel("patches hidden (%)" if curve == "deletion" else "patches shown (%)")
    axes.set_ylabel("probability of the class")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(fontsize=8)


def _normalized(values: NDArray[np.float32]) -> Normalize:
    """From 0 to the highest value; of a map without a positive one, to 1."""
    highest = float(values.max())
    return Normalize(0, highest if highest > 0 else 1)
