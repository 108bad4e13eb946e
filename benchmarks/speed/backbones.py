"""What backbones of several families need: peak memory of whole runs, predicted, beside a plain ViT.

    python -m benchmarks.speed.backbones [--cache .cache] > results/speed/backbones.md

MiB that PyTorch allocates at the peak of the whole run, preloading included, with today's defaults: batch 16, bf16,
fused attention. A method that a backbone lacks something for has none.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import predict_points
from benchmarks.model.backbone import lacks
from methods import METHODS

BACKBONES = {
    "ViT-B/16": "vit_base_patch16_224",
    "DINOv3 ViT-B/16": "vit_base_patch16_dinov3",
    "EVA-02-B/14": "eva02_base_patch14_224",
    "Swin V2-B": "swinv2_base_window8_256",
    "ConvNeXt-B": "convnext_base",
}
RESOLUTIONS = (224, 512, 1024)
METHOD_NAMES = ("full", "lora", "linear", "fpt")


def main(arguments: list[str]) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR", help="default: .cache")
    args = parser.parse_args(arguments)
    points = [
        MemoryPoint(method, resolution, backbone=backbone, precision="bf16", attention="sdpa")
        for backbone in BACKBONES.values()
        for resolution in RESOLUTIONS
        for method in METHOD_NAMES
        if not lacks(backbone, METHODS[method])
    ]
    peaks: dict[MemoryPoint, int] = {}
    for prediction in predict_points(points, args.cache):
        peaks[prediction.point] = prediction.highest.allocated
        print(prediction.point.name, file=sys.stderr, flush=True)
    rows = [
        {"backbone": title, "resolution": resolution} | _cells(backbone, resolution, peaks)
        for title, backbone in BACKBONES.items()
        for resolution in RESOLUTIONS
    ]
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    return 0


def _cells(backbone: str, resolution: int, peaks: dict[MemoryPoint, int]) -> dict[str, str]:
    """A cell a method."""
    known = {
        point.method: peak
        for point, peak in peaks.items()
        if (point.backbone, point.resolution) == (backbone, resolution)
    }
    return {name: f"{known[name] / 2**20:,.0f}" if name in known else "–" for name in METHOD_NAMES}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
