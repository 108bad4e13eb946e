"""The image sheet: a few images of each class, or with each finding, and split on one page, to be looked at."""

import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.check.survey import File, Survey
from benchmarks.choices import SPLITS
from benchmarks.images.decode import read_thumbnail
from benchmarks.names import printable

THUMBNAIL = 112  # pixels
TILE = (120, 136)
LABELS = 150
HEADER = 52
GAP = 16
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (140, 140, 140)
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


def draw_sheet(found: Survey, title: str, samples: int, seed: int) -> bytes:
    """A PNG with a row for each class or finding, a few images of each split side by side, in their own proportions.

    Args:
        found: What the folder holds; only readable images are shown.
        title: Above all.
        samples: Images for each class, or finding, and split.
        seed: Which ones.
    """
    block = samples * TILE[0] + GAP
    size = (LABELS + len(SPLITS) * block, HEADER + len(found.classes) * TILE[1])
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    kind = "class" if found.table is None else "finding"
    large, small = (ImageFont.truetype(FONT, points) for points in (13, 9))
    pen.text((8, 6), f"{title}; {samples} of each {kind} and split, seed {seed}", INK, large)
    for column, split in enumerate(SPLITS):
        left = LABELS + column * block
        count = sum(file.split == split for file in found.images)
        pen.text((left, 30), f"{split}: {count} images", INK, large)
        shown = found.showing([file for file in found.images if file.split == split])
        for row, files in enumerate(shown.values()):
            top = HEADER + row * TILE[1]
            if not files:
                pen.text((left, top + TILE[1] // 2), "none", FAINT, large)
            for position, file in enumerate(_choose(files, samples, np.random.default_rng([seed, column, row]))):
                image = read_thumbnail(found.root / file.path, THUMBNAIL, found.scale)
                corner = (left + position * TILE[0], top)
                sheet.paste(image, (corner[0] + (THUMBNAIL - image.width) // 2, top + (THUMBNAIL - image.height) // 2))
                name = _fitting(Path(file.path).name, small, THUMBNAIL)
                pen.text((corner[0], top + THUMBNAIL + 2), name, FAINT, small)
    for row, name in enumerate(found.classes):
        top = HEADER + row * TILE[1]
        pen.text((8, top + TILE[1] // 2 - 16), _fitting(name, large, LABELS - 16), INK, large)
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return data.getvalue()


def _choose(files: list[File], samples: int, rng: np.random.Generator) -> list[File]:
    return [files[index] for index in sorted(rng.permutation(len(files))[:samples])]


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A name in one line that is cut in its middle where it is too long: names differ at their ends."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(f"{text[: keep // 3]}…{text[-(keep - keep // 3) :]}") > width:
        keep -= 1
    return f"{text[: keep // 3]}…{text[-(keep - keep // 3) :]}"
