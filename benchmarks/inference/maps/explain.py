"""Maps of image files by a trained model, written to a folder: pictures, raw maps, tables and a sheet."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.errors import UserError
from benchmarks.inference.maps.curves import CURVES, ORDERS, Curves, area, curves_of, fractions
from benchmarks.inference.maps.patches import PatchMap
from benchmarks.inference.maps.pictures import draw, draw_sheet
from benchmarks.inference.maps.ways import WAYS
from benchmarks.inference.predict import read_or_fault
from benchmarks.inference.trained import TrainedModel
from benchmarks.names import shortened
from benchmarks.storage.csv_cells import csv_text
from benchmarks.storage.files import write_atomic
from benchmarks.storage.modes import make_private

SHOWN = 512  # px at most of the image in a picture
TABLE, CURVE_TABLE, SHEET = "explanations.csv", "curves.csv", "sheet.png"


class Explained(NamedTuple):
    """What is known of an image.

    Attributes:
        path: Its file.
        image: As it is looked at, in its own proportions.
        label: The class that the map is about.
        probability: Of that class.
        values: The map `(h, w)`, over the whole image whatever its proportions.
        share: As of `PatchMap`.
        curves: Insertion and deletion; None where they were not asked for.
    """

    path: Path
    image: Image.Image
    label: str
    probability: float
    values: NDArray[np.float32]
    share: float | None
    curves: Curves | None

    @property
    def peak(self) -> tuple[float, float]:
        """The centre of the highest patch, right and down, each a fraction of the image."""
        return peak_of(self.values)

    @property
    def row(self) -> dict[str, Any]:
        """Of the table."""
        x, y = self.peak
        areas = {
            f"{curve}_{order}": area(self.curves[curve, order])
            for curve in (CURVES if self.curves is not None else ())
            for order in ORDERS
            if self.curves is not None
        }
        return {
            "path": str(self.path),
            "class": self.label,
            "probability": self.probability,
            "peak_x": x,
            "peak_y": y,
            "attention_on_patches": self.share,
        } | areas


def explain(
    model: TrainedModel,
    paths: Sequence[Path],
    way: str,
    target: int | None = None,
    steps: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Explained | str]:
    """Explains images, one after another.

    Args:
        model: What is explained.
        paths: Of the images.
        way: One of `WAYS` that suits the model, as `choose_way` gives it.
        target: The class; None for the most probable one of each image.
        steps: Of insertion and deletion; 0 leaves them out.
        on_progress: Called with (images done, images in all) after each.

    Yields:
        What is known of an image, or a line that says why it cannot be read.
    """
    for number, path in enumerate(paths):
        read = read_or_fault(model, path)
        if isinstance(read, str):
            yield read
        else:
            views = model.inputs({name: torch.from_numpy(pixels[None]) for name, pixels in read.items()})
            probabilities = model.task.probabilities(model.logits(views).double().cpu().numpy())[0]
            about = int(probabilities.argmax()) if target is None else target
            found: PatchMap = WAYS[way].make(model, views, about)
            curves = curves_of(model, views, found.values, about, steps, number) if steps else None
            yield Explained(
                path, model.shown(path, SHOWN), model.classes[about], float(probabilities[about]),
                found.values.numpy(), found.share, curves,
            )  # fmt: skip
        on_progress(number + 1, len(paths))


def peak_of(values: NDArray[np.float32]) -> tuple[float, float]:
    """The centre of the highest patch of `(h, w)`: right and down, from 0 to 1."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return (int(column) + 0.5) / values.shape[1], (int(row) + 0.5) / values.shape[0]


def check_empty(folder: Path) -> None:
    """Checks that nothing is overwritten, and no older picture stands among the new ones.

    Raises:
        UserError: The folder holds something.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"out must be a new or an empty folder, got {str(folder)!r}, which holds files; name another")


class Folder:
    """Where explanations are written: of each image a picture and its map, then tables and a sheet.

    Args:
        folder: New or empty; made for its owner alone, as pictures show patients.
        model: What is explained.
        way: The one of `WAYS` that made the maps.
    """

    def __init__(self, folder: Path, model: TrainedModel, way: str) -> None:
        self.folder, self.way = folder, way
        self.title = f"{model.card['run_id']}, {way}; not for clinical use"
        self.found: list[Explained] = []
        self.files: list[dict[str, str]] = []

    def add(self, found: Explained) -> None:
        """Writes the picture and the raw map of an image."""
        make_private(self.folder)
        name = f"{len(self.found) + 1:04d}_{shortened(found.path.stem)}"
        title = f"{found.path.name}: {found.label} {found.probability:.3f}; {self.title}"
        self._write(f"{name}.png", draw(found, WAYS[self.way].unit, title))
        raw = io.BytesIO()
        np.save(raw, found.values)
        self._write(f"{name}.npy", raw.getvalue())
        self.files.append({"picture": f"{name}.png", "map": f"{name}.npy"})
        self.found.append(found)

    def finish(self) -> None:
        """Writes the tables and the sheet."""
        rows = [each.row | {"how": self.way} | files for each, files in zip(self.found, self.files, strict=True)]
        self._write(TABLE, csv_text(pd.DataFrame(rows)).encode())
        if any(each.curves for each in self.found):
            self._write(CURVE_TABLE, csv_text(self._curves()).encode())
        self._write(SHEET, draw_sheet(self.found, self.title))

    def summary(self) -> pd.DataFrame:
        """The mean areas over images, and in how many the map's order does better than a random one."""
        rows = []
        for curve in CURVES:
            areas = {
                order: np.array([area(each.curves[curve, order]) for each in self.found if each.curves])
                for order in ORDERS
            }
            gain = areas["random"] - areas["map"] if curve == "deletion" else areas["map"] - areas["random"]
            rows.append(
                {"curve": f"{curve} ({'lower' if curve == 'deletion' else 'higher'} is better)"}
                | {order: f"{values.mean():.3f}" for order, values in areas.items()}
                | {"better than random": f"{(gain > 0).sum()} of {len(gain)}"}
            )
        return pd.DataFrame(rows)

    def _curves(self) -> pd.DataFrame:
        parts = [
            pd.DataFrame(
                {
                    "path": str(each.path),
                    "curve": curve,
                    "order": order,
                    "fraction": fractions(len(values) - 1),
                    "probability": values,
                }
            )
            for each in self.found
            for (curve, order), values in (each.curves or {}).items()
        ]
        return pd.concat(parts, ignore_index=True)

    def _write(self, name: str, data: bytes) -> None:
        write_atomic(self.folder / name, data, "out", sync=False, private=True)
