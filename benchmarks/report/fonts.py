"""The font of figures, cut down once a process to the letters that figures have.

A pdf holds the letters it needs, which matplotlib cuts out of the whole font for every file: of DejaVu Sans, with its
6,000 glyphs, that took half of the time of drawing.
"""

import tempfile
from functools import cache
from pathlib import Path

import matplotlib
from fontTools import subset
from matplotlib.font_manager import fontManager

_WHOLE = "DejaVu Sans"  # which comes with matplotlib
_NAME = "Figure Sans"
_FILES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
_RANGES = ((0x20, 0x180), (0x370, 0x3D0), (0x2010, 0x2040), (0x2190, 0x2194))  # Latin, Greek, punctuation, arrows
_MARKS = "−∞≤≥√≈≠△◊⋆⊗⊘‖"
_NAME_IDS = (1, 3, 4, 6, 16)  # of the name table: what a font is called


@cache
def families() -> list[str]:
    """Names of fonts for matplotlib: the small one, and the whole one for letters that it lacks.

    The small one's files are deleted when the process ends.
    """
    folder = tempfile.TemporaryDirectory(prefix="figure-fonts-")
    _kept.append(folder)
    for name in _FILES:
        path = Path(folder.name) / name
        _cut(Path(matplotlib.get_data_path()) / "fonts/ttf" / name, path)
        fontManager.addfont(path)
    return [_NAME, _WHOLE]


_kept: list[tempfile.TemporaryDirectory[str]] = []  # until the process ends: pdf files are written from the font's


def _cut(whole: Path, path: Path) -> None:
    # Hinting goes: matplotlib hints by FreeType's own rules, and a pdf's reader by its own.
    # Its tables of letter shapes go too, which take longest to cut again; pairs are in the old table as well.
    options = subset.Options(hinting=False, legacy_kern=True, name_IDs=["*"], notdef_outline=True)
    options.drop_tables += ["FFTM", "GPOS", "GSUB", "GDEF"]
    font = subset.load_font(str(whole), options)
    letters = {letter for low, high in _RANGES for letter in range(low, high)} | set(map(ord, _MARKS))
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=letters)
    cutter.subset(font)
    for entry in font["name"].names:
        if entry.nameID in _NAME_IDS:
            text = str(entry).replace(_WHOLE, _NAME).replace(_WHOLE.replace(" ", ""), _NAME.replace(" ", ""))
            font["name"].setName(text, entry.nameID, entry.platformID, entry.platEncID, entry.langID)
    font.save(path)
    font.close()
