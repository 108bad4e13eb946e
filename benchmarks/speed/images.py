"""How fast training gets its images: from the image store against decoding large JPEGs afresh in every epoch.

`python -m benchmarks.speed.images` draws its own 2240 x 1488 JPEGs in a temporary folder and prints one table: the
loader of the training loop, building the store, and augmentation. Within a part, ratios are to its first line.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.bounds import positive
from benchmarks.choices import SPLITS
from benchmarks.commands.options import add_format
from benchmarks.commands.printing import print_frame
from benchmarks.data.augment import FLIP, JITTER, RATIO, SCALE, Preprocessing, draw_augmentation
from benchmarks.data.batches import Split, iterate, sequential_order
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.data.image_store import open_image_stores
from benchmarks.images.decode import Pixels, decoding_side, in_order, num_workers, read_views
from datasets.fundus import SMALL, draw_fundus

SIZE = (2240, 1488)  # pixels, as Messidor-2 has them
QUALITY = 92
ALL_PIXELS = 1 << 20  # a side so large that no JPEG is decoded at a fraction
AUGMENTED_SIDES = (128, 224, 512)
BATCH_SIZE = 16


def main(arguments: list[str]) -> int:
    """Measures, and prints the table to stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.images", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--images", type=positive, default=64, metavar="N", help="JPEGs in the train split (default: 64)"
    )
    parser.add_argument("--side", type=positive, default=512, metavar="PX", help="of the stored images (default: 512)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="a line is timed for (default: 2)")
    add_format(parser)
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.images} JPEGs of {SIZE[0]} x {SIZE[1]} px, {num_workers()} cores to decode, {where}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset = make_dataset(root, args.images)
        parts = (
            ("loader", loader_speeds(dataset, args.side, root / "cache", device, args.seconds)),
            ("store", store_speeds(dataset, args.side, root, args.seconds)),
            ("augmentation", augmentation_speeds(device, args.seconds)),
        )
        rows = [
            {"part": part, "what": what, "images_per_second": round(speed, 1), "ratio": round(speed / first, 2)}
            for part, lines in parts
            for what, speed, first in lines
        ]
    print_frame(pd.DataFrame(rows), args.format, args.wide)
    return 0


Line = tuple[str, float, float]  # what, images per second, those of the line to compare it with


def make_dataset(root: Path, num_images: int) -> Dataset:
    """A dataset of large JPEGs, alike in content and file size to photographs of the retina."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for label in ("a", "b"):
            (root / "large" / split / label).mkdir(parents=True)
    for number in range(num_images + 4):
        split = "train" if number < num_images else SPLITS[1 + (number - num_images) // 2]
        label = "ab"[number % 2]
        pixels = np.asarray(draw_fundus(rng, SMALL).resize(SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (pixels + rng.integers(-6, 7, (SIZE[1], SIZE[0], 1))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / "large" / split / label / f"{number}.jpg", quality=QUALITY)
    return open_dataset(str(root / "large"), root, root / "cache")


class Afresh:
    """Stands for a store whose images are decoded each time that they are read, with a thread per core.

    Args:
        files: The images.
        side: Side length that they are resized to.
        decoded_for: As `read_views` takes it.
    """

    def __init__(self, files: list[Path], side: int, decoded_for: int) -> None:
        self.files, self.side, self.decoded_for = files, side, decoded_for
        self.shape = (len(files), 3, side, side)

    def __getitem__(self, indices: NDArray[np.int64]) -> Pixels:
        files = [self.files[index] for index in indices]
        return np.stack([views[0] for views in in_order(self._read, files)])

    def _read(self, file: Path) -> list[Pixels]:
        return read_views(file, [self.side], self.decoded_for)


def loader_speeds(dataset: Dataset, side: int, cache: Path, device: torch.device, seconds: float) -> Iterator[Line]:
    """Reading uint8 batches, as a GPU is fed; then the loop's whole loader, which also prepares them on the device."""
    files = [dataset.root / sample.path for sample in dataset.splits["train"]]
    sources = {
        "JPEGs decoded afresh": Afresh(files, side, ALL_PIXELS),
        "JPEGs decoded afresh at a fraction": Afresh(files, side, decoding_side([side])),
        "image store": open_image_stores(dataset, "train", [side], cache)[side],
    }
    labels = np.array([sample.label for sample in dataset.splits["train"]])
    order = sequential_order(len(files), BATCH_SIZE)
    preprocessing = Preprocessing(dataset.mean, dataset.std, device)

    def read(source: Pixels) -> None:
        for indices in order:
            torch.from_numpy(source[indices])

    def load(source: Pixels, augment: bool) -> None:
        for _ in iterate(Split(labels, {"image": source}), order, preprocessing, device, augment):
            pass

    ways: dict[str, Callable[[Pixels], None]] = {
        "read": read,
        "read and normalised": lambda source: load(source, False),
        "read, augmented and normalised": lambda source: load(source, True),
    }
    for way, pass_over in ways.items():
        speeds = {
            name: len(files) / timed(partial(pass_over, cast(Pixels, source)), seconds, device)
            for name, source in sources.items()
        }
        first = next(iter(speeds.values()))
        yield from ((f"{name}, {way}", speed, first) for name, speed in speeds.items())


def store_speeds(dataset: Dataset, side: int, root: Path, seconds: float) -> Iterator[Line]:
    """Decoding and resizing for the store, and building all of it."""
    files = [dataset.root / sample.path for sample in dataset.splits["train"]]
    first = None
    for name, decoded_for in (("all pixels", ALL_PIXELS), ("at a fraction", decoding_side([side]))):

        def decode(decoded_for: int = decoded_for) -> None:
            for _ in in_order(lambda file: read_views(file, [side], decoded_for), files):
                pass

        speed = len(files) / timed(decode, seconds, torch.device("cpu"))
        first = first or speed
        yield f"decoding for {side} px, {name}", speed, first
    started = time.perf_counter()
    open_image_stores(dataset, "train", [side, 128], root / "fresh")
    yield f"building {side} and 128 px in one go", len(files) / (time.perf_counter() - started), cast(float, first)


def augmentation_speeds(device: torch.device, seconds: float) -> Iterator[Line]:
    """A batch augmented and normalised at once, against torchvision's transforms image by image."""
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, device)
    for side in AUGMENTED_SIDES:
        images = torch.randint(0, 256, (BATCH_SIZE, 3, side, side), dtype=torch.uint8).to(device)
        transforms = v2.Compose(
            [
                v2.RandomHorizontalFlip(FLIP),
                v2.ColorJitter(brightness=JITTER, contrast=JITTER),
                v2.RandomResizedCrop(side, scale=SCALE, ratio=RATIO, antialias=True),
            ]
        )

        def one_by_one(images: Tensor = images, transforms: Any = transforms) -> None:
            preprocessing(torch.stack([transforms(image) for image in images]))

        def batched(images: Tensor = images) -> None:
            preprocessing(images, draw_augmentation(len(images), images.shape[-1]))

        first = BATCH_SIZE / timed(one_by_one, seconds, device)
        yield f"torchvision image by image, {side} px", first, first
        yield f"batch, {side} px", BATCH_SIZE / timed(batched, seconds, device), first


def timed(action: Callable[[], None], seconds: float, device: torch.device) -> float:
    """Seconds of an action: the fastest of as many as fit into some seconds, after one that does not count."""
    action()
    _synchronize(device)
    begun, fastest = time.perf_counter(), math.inf
    while math.isinf(fastest) or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        action()
        _synchronize(device)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
