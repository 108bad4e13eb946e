"""Where labels and markers go so that none hides another, in points on the page."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.analysis.influence import Floats

MARKER, WHISKER = 6.5, 4.5  # points between the middles of what does not overlap
_LOOKED_AT = 16  # places of a label, the best of all but for what its leader crosses
_ROUNDS = 200  # in which markers are moved
_LINE = 1.0  # points that a line takes to both sides where labels are placed
_ANGLES = np.radians([0, 180, 90, 270, 45, 135, 315, 225, 22, 158, 338, 202])  # of labels around points, as tried
_REACHES = (1.0, 5.0, 10.0, 16.0, 24.0, 32.0, 40.0, 50.0)  # points between a label and its point


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


def dodged(places: Floats, reach: Floats, sides: tuple[float, float]) -> Floats:
    """Where markers stand when they are moved sideways so that none hides another, nor its whiskers `(N,)`.

    They keep their order from left to right, and each group stays around its middle.

    Args:
        places: of their middles `(N, 2)`.
        reach: of the whiskers below and above each `(2, N)`.
        sides: of the axes, which no marker leaves while there is room.
    """
    order = np.argsort(places[:, 0], kind="stable")
    x, y = places[order].T
    low, high = y - np.maximum(reach[0, order], MARKER / 2), y + np.maximum(reach[1, order], MARKER / 2)
    beside = (low[:, None] < high) & (high[:, None] > low)
    apart = np.triu(np.where(np.abs(y[:, None] - y) < MARKER, MARKER, np.where(beside, WHISKER, 0)), 1) * 1.01
    moved = x.copy()
    pairs = np.argwhere(apart > 0).tolist()
    for _ in range(_ROUNDS):
        close = [(i, j, push) for i, j in pairs if (push := apart[i, j] - moved[j] + moved[i]) > 0.05]
        if not close:
            break
        for i, j, _ in close:
            push = max(0.0, apart[i, j] - moved[j] + moved[i]) / 2
            moved[i] -= push
            moved[j] += push
        np.clip(moved, sides[0] + MARKER / 2, sides[1] - MARKER / 2, out=moved)
    found = np.empty_like(moved)
    found[order] = moved
    return found


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
        costs = hidden + 3 * outside + 0.5 * reach
        best = np.argsort(costs, kind="stable")[:_LOOKED_AT]
        chosen = int(best[np.argmin(costs[best] + 80 * _crossed(points[i], places[best], taken))])
        middles[i] = places[chosen]
        leader = segment(*points[i], *middles[i]) if reach[chosen] > _REACHES[1] else []
        taken = np.concatenate([taken, boxes[chosen : chosen + 1], np.array(leader).reshape(-1, 4)])
    return middles


def _crossed(point: Floats, places: Floats, taken: Floats) -> Floats:
    """How much of the line from a point to each label lies on something, but at the point (0-1) `(R * A,)`."""
    along = np.linspace(0, 1, 32)[1:-1, None, None] * (places - point) + point  # (30, R * A, 2)
    own = np.hypot(*(along - point).transpose(2, 0, 1)) < MARKER
    inside = (along[:, :, None] > taken[:, :2]).all(axis=3) & (along[:, :, None] < taken[:, 2:]).all(axis=3)
    found: Floats = (np.any(inside, axis=2) & ~own).mean(axis=0)
    return found


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
