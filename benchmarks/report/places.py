"""Where labels and markers go so that none hides another, in points on the page."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.analysis.influence import Floats

MARKER, WHISKER = 6.5, 4.5  # points between the middles of what does not overlap
_LINE = 1.0  # points that a line takes to both sides where labels are placed
_ANGLES = np.radians([0, 180, 90, 270, 45, 135, 315, 225, 22, 158, 338, 202])  # of labels around points, as tried
_REACHES = (1.0, 5.0, 10.0, 16.0, 24.0, 34.0, 46.0)  # points between a label and its point


class Box(NamedTuple):
    """From left to right and from bottom to top."""

    left: float
    bottom: float
    right: float
    top: float


def moved_apart(places: Sequence[float], gap: float) -> list[float]:
    """Places of labels, as near to `places` (ascending) as they can be when each keeps its distance from the next."""
    moved = list(places)
    for _ in range(200):
        for i in range(len(moved) - 1):
            push = max(0.0, gap - (moved[i + 1] - moved[i])) / 2
            moved[i] -= push
            moved[i + 1] += push
    return moved


def dodged(places: Floats, reach: Floats, marker: float = MARKER, whisker: float = WHISKER) -> Floats:
    """How far to move each of some markers sideways so that none hides another, nor its whiskers `(N,)`.

    One after the other, each as little as it can be for those before it.

    Args:
        places: of their middles `(N, 2)`.
        reach: of the whiskers below and above each `(2, N)`.
        marker: width and height of a marker.
        whisker: least distance between what has a whisker or a marker at the same height.
    """
    moves = np.zeros(len(places))
    low = places[:, 1] - np.maximum(reach[0], marker / 2)
    high = places[:, 1] + np.maximum(reach[1], marker / 2)
    steps = [0.0, *(sign * step for step in range(1, math.ceil(2 * marker) * len(places)) for sign in (1, -1))]
    for i, (x, y) in enumerate(places):
        beside = (low[:i] < high[i]) & (high[:i] > low[i])
        apart = np.where(np.abs(places[:i, 1] - y) < marker, marker, np.where(beside, whisker, 0))
        taken = places[:i, 0] + moves[:i]
        moves[i] = next(step for step in steps if (np.abs(taken - x - step) >= apart).all())
    return moves


def placed_labels(points: Floats, sizes: Floats, others: Sequence[Box], frame: Box) -> Floats:
    """The middles of labels beside points, so that they hide as little as can be of each other and of what is drawn.

    One after the other, the most crowded point first; near places are tried before far ones.

    Args:
        points: `(N, 2)`.
        sizes: width and height of each label `(N, 2)`.
        others: what is drawn.
        frame: where labels belong.
    """
    taken = np.array(others, dtype="float64").reshape(-1, 4)
    crowd = [float(np.sort(np.hypot(*(points - point).T))[:4].sum()) for point in points]
    middles = np.zeros((len(points), 2))
    reach = np.repeat(_REACHES, len(_ANGLES))
    for i in sorted(range(len(points)), key=crowd.__getitem__):
        places = _candidates(points[i], sizes[i])
        boxes = np.concatenate([places - sizes[i] / 2, places + sizes[i] / 2], axis=1)
        hidden = _overlaps(boxes, taken).sum(axis=1)
        outside = sizes[i].prod() - _overlaps(boxes, np.array([frame]))[:, 0]
        chosen = int(np.argmin(hidden + 3 * outside + 0.3 * reach))
        middles[i] = places[chosen]
        leader = segment(*points[i], *middles[i]) if reach[chosen] > _REACHES[1] else []
        taken = np.concatenate([taken, boxes[chosen : chosen + 1], np.array(leader).reshape(-1, 4)])
    return middles


def _candidates(point: Floats, size: Floats) -> Floats:
    """Middles of a label around a point `(R * A, 2)`: its nearest edge or corner as far as it is said to reach."""
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    # A label that stands straight above or below is centred there, one at a side begins or ends there.
    anchors = np.where(np.abs(directions) < 1e-9, 0, np.sign(directions)) * size / 2
    reaches = np.array(_REACHES)[:, None, None] + 3.0  # half of a marker
    return (point + reaches * directions + anchors).reshape(-1, 2)


def _overlaps(boxes: Floats, others: Floats) -> Floats:
    """Area that each box shares with each other one `(B, O)`."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Floats = np.clip(high - low, 0, None).prod(axis=2)
    return shared


def segment(x0: float, y0: float, x1: float, y1: float, step: float = 4.0) -> list[Box]:
    """A line as boxes along it, as thick as it is to a label."""
    parts = max(1, math.ceil(math.hypot(x1 - x0, y1 - y0) / step))
    at = np.linspace([x0, y0], [x1, y1], parts + 1)
    pairs = zip(at[:-1].tolist(), at[1:].tolist(), strict=True)
    return [Box(min(a, c) - _LINE, min(b, d) - _LINE, max(a, c) + _LINE, max(b, d) + _LINE) for (a, b), (c, d) in pairs]
