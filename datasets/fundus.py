"""Draws the synthetic fundus-like images of the demo dataset; every pixel comes from a seed.

Only exact arithmetic touches the pixels (no exp, sin, matrix products or long sums, whose last bits differ between
machines), and the images are stored as baseline JPEG, so the files are the same everywhere.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Canvas = npt.NDArray[np.float32]

SIDE = 768
RETINA_RADIUS = 0.47 * SIDE
LESION_RADIUS = (4.0, 5.0)  # pixels
LESION_DEPTH = (1.75, 2.0)  # fraction of light taken at the centre; the ring gives half of it back
RING = 1.4  # radius of the ring over that of the dot


def draw_fundus(rng: np.random.Generator, num_lesions: int) -> Image.Image:
    """One RGB image of `SIDE` px: retina, optic disc, vessels and blotches at random, and small lesions.

    Args:
        rng: Drives everything that is drawn.
        num_lesions: How many small lesions; nothing else depends on it.
    """
    retina = _background(rng)
    disc = _optic_disc_center(rng)
    _add_blob(retina, disc, float(rng.uniform(48, 62)), (70.0, 85.0, 50.0))
    macula = (SIDE - disc[0] + float(rng.uniform(-40, 40)), disc[1] + float(rng.uniform(-20, 60)))
    _add_blob(retina, macula, float(rng.uniform(70, 100)), (-45.0, -30.0, -12.0))
    for _ in range(int(rng.integers(2, 7))):
        _add_blotch(retina, rng)
    _add_vessels(retina, disc, rng)
    retina += rng.integers(-3, 4, size=(SIDE, SIDE, 1)).astype(np.float32)  # camera noise
    _add_lesions(retina, num_lesions, rng)
    x, y = _grid()
    inside = ((x * x + y * y) < RETINA_RADIUS * RETINA_RADIUS)[..., None]
    return Image.fromarray(np.where(inside, retina, 6.0).clip(0, 255).round().astype(np.uint8))


def _grid() -> tuple[Canvas, Canvas]:
    """Coordinates from the centre of the image: (1, SIDE) and (SIDE, 1)."""
    line = np.arange(SIDE, dtype=np.float32) - np.float32(SIDE / 2)
    return line[None, :], line[:, None]


def _background(rng: np.random.Generator) -> Canvas:
    """Orange to brown, brighter on one side and darker at the rim: (SIDE, SIDE, 3)."""
    color = np.array([rng.uniform(150, 215), rng.uniform(65, 110), rng.uniform(25, 60)], dtype=np.float32)
    x, y = _grid()
    tilt_x, tilt_y = rng.uniform(-0.2, 0.2, size=2).astype(np.float32)
    rim = np.float32(rng.uniform(0.2, 0.5)) * (x * x + y * y) / np.float32(RETINA_RADIUS**2)
    light = 1 + (tilt_x * x + tilt_y * y) / np.float32(SIDE) - rim
    return light[..., None] * color


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


def _add_blotch(image: Canvas, rng: np.random.Generator) -> None:
    """A large harmless patch, lighter or darker, of several overlapping spots."""
    x, y = _random_point(rng, 0.8 * RETINA_RADIUS)
    strength = float(rng.uniform(8, 25)) * (1 if rng.integers(2) else -1)
    for _ in range(5):
        center = (x + float(rng.uniform(-40, 40)), y + float(rng.uniform(-40, 40)))
        _add_blob(image, center, float(rng.uniform(30, 70)), (strength, 0.7 * strength, 0.4 * strength))


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


def _add_lesions(image: Canvas, count: int, rng: np.random.Generator) -> None:
    """Dark dots, each in a faint bright ring that carries as much light as the dot takes away.

    A dot and its ring cancel out in the mean, so an image reduced until both fall into one pixel hardly shows them.
    """
    for _ in range(count):
        center = _random_point(rng, 0.85 * RETINA_RADIUS)
        radius = float(rng.uniform(*LESION_RADIUS))
        window, distance2 = _window(center, RING * radius)
        profile = _bump(distance2, radius) - _bump(distance2, RING * radius) / np.float32(RING * RING)
        image[window] *= (1 - np.float32(rng.uniform(*LESION_DEPTH)) * profile)[..., None]
