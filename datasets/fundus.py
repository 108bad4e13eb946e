"""Draws the synthetic fundus-like images of the demo dataset; every pixel comes from a seed.

Only exact arithmetic touches the pixels (no exp, sin, matrix products or long sums, whose last bits differ between
machines), and the images are stored as baseline JPEG, so the files are the same everywhere.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Canvas = npt.NDArray[np.float32]

SIDE = 768
RETINA_RADIUS = 0.47 * SIDE
COLOR = (182.5, 87.5, 42.5)  # of the retina's centre
REACH = 0.85  # of the retina's radius: how far out the centres of lesions are
RIM = 0.35  # fraction of light lost at the retina's edge


class Spot(NamedTuple):
    """Where a lesion was drawn: its centre and its radius, a ring's included, in pixels."""

    x: float
    y: float
    radius: float


class Lesions(NamedTuple):
    """Dark spots of one kind; each number is drawn evenly between two limits.

    Attributes:
        number: How many an image has; the upper limit is excluded.
        radius: Of a spot, in pixels.
        depth: Fraction of light taken at its centre.
        ring: Radius over the spot's of a bright ring that gives back as much light as the spot takes; None for none.
    """

    number: tuple[int, int]
    radius: tuple[float, float]
    depth: tuple[float, float]
    ring: float | None


# Seen at any resolution. Without a ring the mean of its pixels stays dark however far an image is reduced.
LARGE = Lesions(number=(35, 55), radius=(20.0, 28.0), depth=(0.7, 0.9), ring=None)
# A spot and its ring cancel out in the mean, so an image reduced until both fall into one pixel hardly shows them.
SMALL = Lesions(number=(130, 170), radius=(6.0, 6.8), depth=(1.75, 2.0), ring=1.4)


def draw_fundus(rng: np.random.Generator, lesions: Lesions | None) -> Image.Image:
    """One RGB image of `SIDE` px: retina, optic disc, macula and vessels at random, and lesions of one kind.

    Args:
        rng: Drives everything that is drawn.
        lesions: What is added last; nothing else depends on it.
    """
    return draw_with_places(rng, lesions)[0]


def draw_with_places(rng: np.random.Generator, lesions: Lesions | None) -> tuple[Image.Image, list[Spot]]:
    """What `draw_fundus` draws, and where its lesions are."""
    x, y = _grid()
    distance2 = (x * x + y * y) / np.float32(RETINA_RADIUS * RETINA_RADIUS)
    light = (1 - np.float32(RIM) * distance2).astype(np.float32)
    retina = light[..., None] * np.array(COLOR, dtype=np.float32)
    disc = _optic_disc_center(rng)
    _add_blob(retina, disc, float(rng.uniform(48, 62)), (70.0, 85.0, 50.0))
    macula = (SIDE - disc[0] + float(rng.uniform(-40, 40)), disc[1] + float(rng.uniform(-20, 60)))
    _add_blob(retina, macula, float(rng.uniform(70, 100)), (-45.0, -30.0, -12.0))
    _add_vessels(retina, disc, rng)
    retina += rng.integers(-3, 4, size=(SIDE, SIDE, 1)).astype(np.float32)  # camera noise
    spots = [] if lesions is None else _add_lesions(retina, lesions, rng)
    pixels = np.where((distance2 < 1)[..., None], retina, 6.0).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(pixels), spots


def covered(spots: Iterable[Spot]) -> npt.NDArray[np.bool_]:
    """The pixels `(SIDE, SIDE)` that lie on a lesion."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for spot in spots:
        window, distance2 = _window((spot.x, spot.y), spot.radius)
        mask[window] |= distance2 < spot.radius**2
    return mask


def within_reach() -> npt.NDArray[np.bool_]:
    """The pixels `(SIDE, SIDE)` where the centre of a lesion may be drawn."""
    x, y = _grid()
    return x * x + y * y < np.float32(REACH * RETINA_RADIUS) ** 2


def _grid() -> tuple[Canvas, Canvas]:
    """Coordinates from the centre of the image: (1, SIDE) and (SIDE, 1)."""
    line = np.arange(SIDE, dtype=np.float32) - np.float32(SIDE / 2)
    return line[None, :], line[:, None]


def _optic_disc_center(rng: np.random.Generator) -> tuple[float, float]:
    side = 1 if rng.integers(2) else -1
    return SIDE / 2 + side * float(rng.uniform(150, 220)), SIDE / 2 + float(rng.uniform(-50, 50))


def _add_blob(image: Canvas, center: tuple[float, float], radius: float, color: tuple[float, float, float]) -> None:
    """Adds a smooth round spot of a colour that fades out towards its radius."""
    window, distance2 = _window(center, radius)
    image[window] += _bump(distance2, radius)[..., None] * np.array(color, dtype=np.float32)


def _window(center: tuple[float, float], radius: float) -> tuple[tuple[slice, slice], Canvas]:
    """The part of the image within a radius of a point, and the squared distance of its pixels from there."""
    left, top = (max(0, math.floor(c - radius)) for c in center)
    right, bottom = (max(0, min(SIDE, math.ceil(c + radius) + 1)) for c in center)
    x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(center[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(center[1])
    return (slice(top, bottom), slice(left, right)), x * x + y * y


def _bump(distance2: Canvas, radius: float) -> Canvas:
    """(1 - (d / radius)^2)^2 inside the radius, 0 outside; its integral is a third of the disc's area."""
    inside = np.clip(1 - distance2 / np.float32(radius * radius), 0, None)
    return inside * inside


def _random_point(rng: np.random.Generator, limit: float) -> tuple[float, float]:
    while True:
        x, y = rng.uniform(-limit, limit, size=2)
        if x * x + y * y < limit * limit:
            return SIDE / 2 + float(x), SIDE / 2 + float(y)


def _add_vessels(image: Canvas, disc: tuple[float, float], rng: np.random.Generator) -> None:
    """Darkens along branching random walks that start at the optic disc."""
    mask = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(mask)
    inward = 0.0 if disc[0] < SIDE / 2 else math.pi
    stack: list[tuple[float, float, float, float]] = []
    for turn in (-1.35, -0.75, 0.75, 1.35, 2.4, -2.4):
        stack.append((*disc, inward + turn + float(rng.uniform(-0.25, 0.25)), float(rng.uniform(7, 10))))
    while stack:
        x, y, angle, width = stack.pop()
        for _ in range(int(rng.integers(8, 16))):
            angle += float(rng.uniform(-0.28, 0.28))
            end_x, end_y = x + 16 * math.cos(angle), y + 16 * math.sin(angle)
            pen.line([round(x), round(y), round(end_x), round(end_y)], fill=255, width=max(1, round(width)))
            x, y = end_x, end_y
        outside = (x - SIDE / 2) ** 2 + (y - SIDE / 2) ** 2 > RETINA_RADIUS**2
        if width > 2.2 and not outside:
            stack.append((x, y, angle + float(rng.uniform(0.2, 0.6)), width * 0.68))
            stack.append((x, y, angle - float(rng.uniform(0.2, 0.6)), width * 0.68))
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(1.5)), dtype=np.float32) / np.float32(255)
    depth = np.array([55, 45, 20], dtype=np.float32) * np.float32(rng.uniform(0.7, 1.1))
    image -= soft[..., None] * depth


def _add_lesions(image: Canvas, lesions: Lesions, rng: np.random.Generator) -> list[Spot]:
    spots = []
    for _ in range(int(rng.integers(*lesions.number))):
        center = _random_point(rng, REACH * RETINA_RADIUS)
        radius = float(rng.uniform(*lesions.radius))
        spots.append(Spot(*center, (lesions.ring or 1) * radius))
        window, distance2 = _window(center, spots[-1].radius)
        profile = _bump(distance2, radius)
        if lesions.ring is not None:
            profile -= _bump(distance2, lesions.ring * radius) / np.float32(lesions.ring**2)
        image[window] *= (1 - np.float32(rng.uniform(*lesions.depth)) * profile)[..., None]
    return spots
