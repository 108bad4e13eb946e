"""What methods on frozen features need in training: a floor, our prediction, and a direct transcription's.

    python -m benchmarks.speed.side_memory [--methods lst dtl] [--res 512] [--format csv]

MiB that PyTorch allocates at the peak of training on preloaded features, predicted on fake tensors, without cuBLAS's
workspaces. The floor is what no implementation does without: features of the batch, weights, gradients and two states
of AdamW of what trains, and what has to be kept for the backward pass (`KEPT` says what that is, and why). The
transcription (`benchmarks.speed.side_plain`) is the method as its paper writes it; its features are in fp32 where it
computes in fp32.

A method joins by a line in `KEPT`, and one in `side_plain.TRANSCRIPTIONS` if it is to be compared with one. Where KEPT
says that nothing is, all could be made again from the features: a floor that asks for a second forward pass.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import pandas as pd
import torch

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.config import Attention, Precision
from benchmarks.memory import trace
from benchmarks.memory.phases import build_point, point_resolution
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.backbone import described
from benchmarks.model.build import Parts
from benchmarks.model.method_config import make_config
from benchmarks.speed.side_plain import TRANSCRIPTIONS, Transcribed

MIB = 2**20
PROTOCOLS: tuple[tuple[Precision, Attention], ...] = (("fp32", "sdpa"), ("bf16", "sdpa"))


@dataclass(frozen=True)
class Sizes:
    """Of a point: what formulas of kept activations are written in.

    Attributes:
        tokens: Number N of tokens of all images of the batch.
        width: D.
        depth: L.
        stream: Bytes of a number of a stream that linear layers write: autocast's type.
        config: The method's.
    """

    tokens: int
    width: int
    depth: int
    stream: int
    config: Any


def _nothing(sizes: Sizes) -> int:
    """All is made again from the features."""
    return 0


def _ladder(sizes: Sizes) -> int:
    """h_0 .. h_{L-1}: each needs all those before it."""
    return sizes.depth * sizes.tokens * (sizes.width // sizes.config.reduction) * sizes.stream


def _parallel(sizes: Sizes) -> int:
    """c_0 .. c_{L-1} and s_L, which the gate's gradient reads."""
    return (sizes.depth + 1) * sizes.tokens * (sizes.width // sizes.config.reduction) * sizes.stream


def _late_blocks(sizes: Sizes) -> int:
    """What a gradient through a frozen block reads: 10 N·D, of which the residual stream's 2 are in fp32."""
    blocks = sizes.depth - sizes.depth // 2 - 1
    return blocks * sizes.tokens * sizes.width * (2 * 4 + 8 * sizes.stream)


KEPT: dict[str, Callable[[Sizes], int]] = {
    "lst": _ladder,
    "res_tuning_bypass": _nothing,
    "unipt": _parallel,
    "dtl": _late_blocks,
    "dtl_plus": _late_blocks,
    **dict.fromkeys(("vqt", "synqt", "side_tuning", "ep", "attentive_probe", "fpt", "fpt_plus"), _nothing),
}


def transcribed(point: MemoryPoint) -> Parts:
    """A point's parts, the model by its transcription, which there is."""
    if point.precision == "fp32" and hasattr(make_config(point.method, {}), "feature_dtype"):
        point = replace(point, options=(*point.options, ("feature_dtype", "float32")))
    parts = build_point(point)
    return Parts(Transcribed(parts.model, TRANSCRIPTIONS[point.method]), parts.extractor)


def kept_bytes(point: MemoryPoint) -> int:
    """What has to be kept of a batch for the backward pass, by the method's formula."""
    backbone = described(point.backbone)
    patches = (point_resolution(point) // backbone.patch_size) ** 2
    tokens = point.batch_size * (backbone.num_prefix_tokens + patches)
    stream = 4 if point.precision == "fp32" else 2
    config = make_config(point.method, dict(point.options))
    return KEPT[point.method](Sizes(tokens, backbone.embed_dim, len(backbone.blocks()), stream, config))


def row(point: MemoryPoint) -> dict[str, Any]:
    """Peaks and floor of a point, MiB."""
    with mock.patch.object(trace, "library_workspaces", lambda func: []):
        ours = predict_memory(point).phases
        plain = predict_memory(point, transcribed).phases["train"].allocated if point.method in TRANSCRIPTIONS else None
    with torch.device("meta"):
        parameters = list(build_point(point).model.parameters())
    held = ours["train"].breakdown
    inputs = sum(size for purpose, size in held.items() if purpose.startswith("input"))
    weights = sum(p.nbytes * (4 if p.requires_grad else 1) for p in parameters)  # with gradient and two states
    kept = kept_bytes(point)
    floor = inputs + weights + kept
    peak = ours["train"].allocated
    shown = {
        "features": inputs,
        "weights": weights,
        "kept": kept,
        "floor": floor,
        "ours": peak,
        "transcription": plain,
        "preload": ours["preload"].allocated,
    }
    setting = {"method": point.method, "px": point.resolution, "precision": point.precision}
    sizes = {name: None if size is None else round(size / MIB) for name, size in shown.items()}
    return setting | sizes | {"ours / floor": f"{peak / floor:.2f}"}


def rows(
    methods: Sequence[str], resolutions: Sequence[int], backbone: str, batch_size: int
) -> Iterator[dict[str, Any]]:
    """A row for each method, resolution and precision."""
    for method in methods:
        for resolution in resolutions:
            for precision, attention in PROTOCOLS:
                point = MemoryPoint(method, resolution, batch_size, backbone, precision=precision, attention=attention)
                print(point.name, file=sys.stderr, flush=True)
                yield row(point)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(KEPT), default=list(KEPT), help="default: all")
    parser.add_argument("--res", nargs="+", type=int, default=[512], help="image sides in px (default: 512)")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, help=f"default: {DEFAULT_BACKBONE}")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--format", choices=("md", "csv", "json"), default="md", help="default: md")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    args = make_parser().parse_args(arguments)
    frame = pd.DataFrame(rows(args.methods, args.res, args.backbone, args.batch_size), dtype=object)
    if args.format == "csv":
        print(frame.to_csv(index=False), end="")
    elif args.format == "json":
        print(frame.to_json(orient="records", indent=2))
    else:
        print(frame.to_markdown(index=False, disable_numparse=True, missingval="–"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
