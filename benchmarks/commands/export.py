"""bench.py export: a kept model for other programs, as a checkpoint of timm or as ONNX."""

import argparse
import sys
from pathlib import Path

from benchmarks.commands.contract import Command
from benchmarks.commands.predict import add_model, add_model_options, load
from benchmarks.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_model(parser)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--merged",
        action="store_true",
        help="the whole network as safetensors under timm's names, of methods that leave one (full, bitfit, lora, ...)",
    )
    kind.add_argument("--onnx", action="store_true", help="pixels to logits as ONNX, checked with onnxruntime")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: <run>.merged.safetensors or <run>.onnx under exports/ in the results folder",
    )
    add_model_options(parser, batches=False)


def run(args: argparse.Namespace) -> int:
    """Writes the file, and prints its path."""
    from benchmarks.inference.export import export_merged, export_onnx

    if args.out is not None and args.out.is_dir():
        raise UserError(f"out must be a file, got the folder {str(args.out)!r}")
    model = load(args)
    ending = "onnx" if args.onnx else "merged.safetensors"
    path = args.out or args.results / "exports" / f"{model.card['run_id']}.{ending}"
    difference = (export_onnx if args.onnx else export_merged)(model, path)
    print(f"logits differ by {difference:.1e} at most from those of the model in fp32", file=sys.stderr)
    print(path)
    return 0


COMMAND = Command(
    "export",
    "write a kept model for other programs: timm's checkpoint or ONNX",
    "python bench.py export best --onnx",
    add_arguments,
    run,
)
