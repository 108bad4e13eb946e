"""What fills predicted peaks: a stacked bar for each method's whole run, in GiB and as shares of the peak.

It is the bar of the phase with the highest peak; where that is not training, a thinner and lighter one is training's.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from benchmarks.errors import UserError
from benchmarks.names import title_of
from benchmarks.report.axes import method_axis
from benchmarks.report.canvas import finish, rc
from benchmarks.report.style import PAGE
from methods import TITLES

_SMALL = 0.02  # of a peak
MERGED = "the rest, each under 2 %"
# What belongs to parameters first, then what grows with the image. Neighbours differ in lightness and hatch.
KINDS: dict[str, tuple[str, str]] = {
    "parameters": ("0.25", ""),
    "gradients": ("0.75", ""),
    "optimizer_state": ("0.45", "////"),
    "input images": ("#F0E442", ""),
    "input features": ("#8C7A00", ""),
    "activations: patch embedding": ("#FBE3C0", "oooo"),
    "activations: residual stream": ("#7FB2DA", "----"),
    "activations: norm": ("#CFE8F7", "...."),
    "activations: attention": ("#2C8FBF", "\\\\\\\\"),
    "activations: attention scores": ("#BFDDEE", "xxxx"),
    "activations: mlp": ("#5DBB9A", "++++"),
    "activations: side network": ("#A8DCC9", "////"),
    "activations: fusion": ("#00A07A", "...."),
    "activations: loss": ("0.9", ""),
    "activations: other": ("#E7C6D8", "||||"),
    "workspace": ("white", "////"),
    MERGED: ("0.55", ""),
}
_FURTHER = (
    ("#D55E00", "oooo"),
    ("#F7C7A6", "xxxx"),
    ("#A04000", "...."),
    ("#FFE0CC", "----"),
)  # kinds of other methods
_FACTORS = ("resolution", "batch_size", "precision", "attention", "grad_checkpointing", "backbone")
_THICK, _THIN, _LIGHTER = 0.72, 0.4, 0.5  # heights of bars, and the opacity of thin ones


class Bar(NamedTuple):
    """One bar: its label, its bytes by purpose, and whether it is that of training beside a higher phase's."""

    label: str
    parts: pd.Series
    alone: bool


def plot_breakdown(frame: pd.DataFrame, path: Path) -> list[Path]:
    """Draw a stacked bar for each method and setting, and one for training where another phase needs more.

    Args:
        frame: a row for each point, phase and purpose, as `bench.py memory --breakdown --format csv` prints them.
        path: where to write; png and pdf are written beside each other.

    Raises:
        UserError: there is nothing to draw.
        MachineError: the folder cannot be written.
    """
    if not frame["phase"].isin(["train", "eval"]).any():
        raise UserError("breakdown must hold at least one phase of training or inference, got none")
    varying = [name for name in _FACTORS if frame[name].nunique() > 1]
    bars = [
        bar
        for keys, group in frame.groupby(["method", *varying], sort=False)
        for bar in _bars(_label(keys, varying), group)
    ]
    purposes = pd.Series([purpose for bar in bars for purpose in bar.parts.index])
    looks = _looks(purposes)
    with matplotlib.rc_context(rc() | {"hatch.linewidth": 0.4, "axes.grid": False}):
        figure, (sizes, shares) = plt.subplots(1, 2, sharey=True, figsize=(PAGE, 0.7 + 0.17 * len(bars)))
        for place, (_, parts, alone) in enumerate(bars):
            _stack(sizes, place, parts / 2**30, looks, alone)
            _stack(shares, place, 100 * parts / parts.sum(), looks, alone)
            sizes.text(parts.sum() / 2**30, place, f" {_size(parts.sum())}", va="center")
            if alone:
                ends = [bar.parts.sum() / 2**30 for bar in bars[place - 1 : place + 1]]
                rows = [place - 1 + _THICK / 2, place - _THIN / 2]
                sizes.plot(ends, rows, color="0.4", linewidth=0.8)
        method_axis(sizes, [bar.label for bar in bars])
        sizes.set_xlabel("Peak allocated memory (GiB)")
        sizes.set_xlim(0, 1.22 * max(bar.parts.sum() for bar in bars) / 2**30)
        shares.set(xlabel="Share of the peak (%)", xlim=(0, 100))
        handles: Sequence[Any] = [
            Patch(facecolor=colour, hatch=hatch, edgecolor="black", linewidth=0.3, label=_name(kind))
            for kind, (colour, hatch) in looks.items()
        ]
        caption = ", ".join(_said(name, frame[name].iloc[0]) for name in _FACTORS if name not in varying)
        caption = f"Predicted for an NVIDIA GPU at the peak of the whole run, lighter at that of training. {caption}."
        paths = finish(figure, path, "What fills GPU memory at its peak", caption, handles)
        plt.close(figure)
    return paths


def _bars(label: str, point: pd.DataFrame) -> Iterator[Bar]:
    """The phase of a point with the highest peak, and training where that is another."""
    totals = point.groupby("phase", sort=False)["bytes"].sum()
    highest = "train" if totals.get("train") == totals.max() else str(totals.idxmax())
    for phase in dict.fromkeys((highest, "train")):
        parts = point[point["phase"] == phase].set_index("purpose")["bytes"]
        if len(parts):
            words = highest if phase == highest else "training alone"
            name = label if highest == "train" else f"{label}, {words}"
            yield Bar(name, _merged(parts.groupby(level=0, sort=False).sum()), phase != highest)


def _merged(parts: pd.Series) -> pd.Series:
    """Bytes by purpose, of all that take less than `_SMALL` of their sum the sum; one alone keeps its name."""
    small = parts < _SMALL * parts.sum()
    if small.sum() < 2:
        return parts
    return pd.concat([parts[~small], pd.Series({MERGED: parts[small].sum()})])


def _stack(axes: Axes, place: int, parts: pd.Series, looks: dict[str, tuple[str, str]], alone: bool) -> None:
    height, opacity = (_THIN, _LIGHTER) if alone else (_THICK, 1)
    left = 0.0
    for kind, (colour, hatch) in looks.items():
        width = float(parts.get(kind, 0.0))
        if width:
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "black", "linewidth": 0.3}
            axes.barh(place, width, left=left, height=height, alpha=opacity, **look)
        left += width


def _looks(purposes: pd.Series) -> dict[str, tuple[str, str]]:
    """Fill and hatch of each kind there is, in the order of the stack."""
    there = set(purposes)
    further = sorted(there - set(KINDS))
    styles = {kind: _FURTHER[place % len(_FURTHER)] for place, kind in enumerate(further)}
    *others, workspace, merged = KINDS
    known, last = ({kind: KINDS[kind] for kind in kinds if kind in there} for kinds in (others, (workspace, merged)))
    return known | styles | last


def _label(keys: tuple[Any, ...], varying: Sequence[str]) -> str:
    method, *values = keys
    said = [_said(name, value) for name, value in zip(varying, values, strict=True)]
    return ", ".join([title_of(method, TITLES), *said])


def _said(name: str, value: object) -> str:
    texts = {"resolution": f"{value} px", "batch_size": f"batch {value}"}
    texts |= {"grad_checkpointing": "gradient checkpointing" if value else "no checkpointing"}
    texts |= {"attention": {"eager": "eager", "sdpa": "fused"}.get(str(value), str(value)) + " attention"}
    return texts.get(name, str(value))


def _name(kind: str) -> str:
    return kind.removeprefix("activations: ").replace("optimizer_state", "optimiser state").replace("mlp", "MLP")


def _size(value: float) -> str:
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
