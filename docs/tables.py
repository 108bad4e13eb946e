"""What is made by counting or copied in the pages of docs/: tables of methods, datasets and rooms, and the example."""

import ast
import csv
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.bounds import BOUNDS
from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.config import Attention, Precision
from benchmarks.environment import ROOT
from benchmarks.memory.measured import read_point
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.backbone import create_backbone, described, lacks
from benchmarks.model.build import count_parameters, feature_shapes
from benchmarks.model.method_config import make_config
from benchmarks.records.whole_run import highest_phase
from datasets import DATASETS
from docs.architecture import is_room, read_layers
from methods import METHODS
from methods.adapters import ssf

RESOLUTION = 512
NUM_ELEMENTS = (1 + (RESOLUTION // 16) ** 2) * 768  # N·D of the default backbone
NUM_CLASSES = 5  # of the head that the published percentages of FPT and FPT+ include
MEASURED = ROOT / "results/measured/nvidia-h100-80gb-hbm3"
MEMORY_ROWS = ("full", "vpt", "adapter", "lora", "fpt", "fpt_plus", "linear")
PROTOCOLS: tuple[tuple[Precision, Attention], ...] = (("fp32", "eager"), ("fp32", "sdpa"), ("bf16", "sdpa"))
PREDICTED = "†"
FAMILIES = (  # a backbone of each kind that differs in what methods may ask
    "vit_base_patch16_224",
    "vit_base_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_xp_224",
    "vit_base_patch16_dinov3",
    "eva02_base_patch14_224",
    "vit_pe_core_base_patch16_224",
    "beit_base_patch16_224",
    "swinv2_base_window8_256",
    "convnext_base",
    "resnet50",
    "efficientnet_b0",
)


def markdown(header: str, align: str, rows: list[list[str]]) -> str:
    """A table; `header` has its cells between bars, `align` a letter each, `l` or `r`."""
    rules = ["--:" if side == "r" else "---" for side in align]
    lines = [[cell.strip() for cell in header.split("|")], rules, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def methods_table() -> str:
    """What each method trains and keeps."""
    published = {row["method"]: row["trainable_percent"] for row in _published()}
    rows = []
    for name in METHODS:
        counts = count_parameters(name, make_config(name, {}), DEFAULT_BACKBONE, NUM_CLASSES)
        numbers = [f"{counts['trainable']:,}", f"{counts['percent']:.2f}", published.get(name, "–")]
        rows.append([f"`{name}`", *numbers, kept_by_block(name), features(name)])
    header = "method | trainable | % | published % | kept a block (N·D) | features an image"
    return markdown(header, "lrrrrr", rows)


def kept_by_block(name: str) -> str:
    """As `kept` says; where a method trains the last blocks alone, what each of these keeps, and what the others do."""
    if not hasattr(make_config(name, {}), "num_blocks"):
        return kept(name)
    two, three = (_saved_elements(name, 4, num_blocks=number) for number in (2, 3))
    return f"{(three - two) / NUM_ELEMENTS:.1f}; frozen {kept(name)}"


def kept(name: str) -> str:
    """Activations that a backbone block keeps for the backward pass, in units of N·D; 0 where it is frozen ahead.

    What three blocks keep less what two do, so that what stands outside the blocks cancels.
    """
    if METHODS[name].has_extractor:
        return "0"
    two, three = (_saved_elements(name, depth) for depth in (2, 3))
    return f"{(three - two) / NUM_ELEMENTS:.1f}"


def _vit(depth: int) -> Any:
    return create_backbone(f"{DEFAULT_BACKBONE}[depth={depth}]", RESOLUTION)


def _saved_elements(name: str, depth: int, **options: Any) -> int:
    """Elements of fp32 that the forward pass saves for one image, parameters and inputs aside, each storage once."""
    saved: dict[int, Tensor] = {}  # holding them, so that no storage comes twice at one address

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    config = make_config(name, options)
    with torch.device("meta"):
        vit = _vit(depth)
        model = METHODS[name].build(vit, NUM_CLASSES, config).train()
        inputs = {"image": torch.empty(1, 3, RESOLUTION, RESOLUTION)}
        extractor = METHODS[name].extractor(vit, config)
        if extractor is not None:
            inputs = extractor(**inputs)
    with FakeTensorMode():  # on the meta device attention is never fused
        model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        inputs = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in inputs.items()}
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = model(**inputs)
    assert logits.requires_grad
    given = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *inputs.values())}
    activations = [tensor.untyped_storage() for storage, tensor in saved.items() if storage not in given]
    return sum(storage.nbytes() for storage in activations) // 4


def features(name: str) -> str:
    """Bytes of an image's frozen features, where a method can preload them."""
    if not METHODS[name].has_extractor:
        return "–"
    shapes, _ = feature_shapes(name, make_config(name, {}), DEFAULT_BACKBONE, RESOLUTION)
    size = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def defaults_table() -> str:
    """The defaults of each method."""
    rows = []
    for name, method in METHODS.items():
        config = dataclasses.asdict(method.config())
        lr, decay = (f"{config.pop(option):g}" if option in config else "–" for option in ("lr", "weight_decay"))
        grid = ", ".join(f"{rate:g}" for rate in getattr(method.config, "lr_grid", ())) or "–"
        options = ", ".join(f"{option} {value}" for option, value in config.items())
        rows.append([f"`{name}`", lr, grid, decay, options or "–"])
    return markdown("method | lr | `--lr grid` | weight decay | other options", "lllll", rows)


def datasets_table() -> str:
    """What is known of each dataset."""
    rows = []
    for info in (info for info in DATASETS.values() if info.find is not None):
        counts = info.expected_counts
        per_class = [name if counts is None else f"{name}: {counts[name]:,}" for name in info.classes]
        total = info.expected.get("total") or sum(info.expected[split] for split in info.official)
        splits = ", ".join(info.official) or "none"
        rows.append([f"`{info.name}`", f"{total:,}", "; ".join(per_class), info.group_key, splits, info.licence])
    return markdown("dataset | images | classes, in order | kept together | official splits | terms", "lrllll", rows)


def normalisation_table() -> str:
    """Mean and deviation per channel."""
    rows = []
    for info in (info for info in DATASETS.values() if info.find is not None):
        shown = [
            ", ".join(f"{x:g}" for x in dict.fromkeys(values or ())) or "computed" for values in (info.mean, info.std)
        ]
        rows.append([f"`{info.name}`", *shown])
    return markdown("dataset | mean | standard deviation", "lll", rows)


def memory_table() -> str:
    """Peak memory on a GPU: published, measured where it has been, else predicted; and what the factors change."""
    published = {row["method"]: row["memory_mb"] for row in _published()}
    rows = []
    factors: dict[str, list[float]] = {}  # process memory: papers' protocol, today's; of each the whole run, training
    for name in MEMORY_ROWS:
        paper, fused, default = (_phases(name, *protocol) for protocol in PROTOCOLS)
        cells = [_shown(paper, "process", "train"), _shown(paper, "process")]
        cells += [*(_shown(each) for each in (paper, fused, default)), _shown(default, phase="train")]
        known = f"{int(published[name]):,}" if name in published else "–"
        rows.append([METHODS[name].title, known, *cells])
        factors[name] = [_peak(each, "process", phase) for each in (paper, default) for phase in (None, "train")]
    header = "| published, process: training | process: training | process: run"
    header += " | allocated: run" * 3 + " | allocated: training"
    units = ["", *["fp32, eager"] * 4, "fp32, fused", "bf16, fused", "bf16, fused"]
    fpt, plus, lora = (
        [f"{full / own:.2g}" for full, own in zip(factors["full"], factors[name], strict=True)]
        for name in ("fpt", "fpt_plus", "lora")
    )
    said = (
        "Fused attention and bf16 take most of what the papers' protocol charges to full fine-tuning. As the driver "
        f"counts it, FPT needs {fpt[0]} times less memory than full fine-tuning in the whole run ({fpt[1]} in training "
        f"alone) under the papers' protocol, and {fpt[2]} times less ({fpt[3]}) with today's defaults; FPT+ {plus[0]} "
        f"({plus[1]}) and {plus[2]} ({plus[3]}); LoRA, which preloads nothing, {lora[0]} and {lora[2]}."
    )
    return "\n\n".join(
        [
            markdown(header, "lrrrrrrr", [units, *rows]),
            f"{PREDICTED} Predicted: these have changed since a GPU was last at hand.",
            textwrap.fill(said, 120),
        ]
    )


def predictions_table() -> str:
    """How near predictions come to what was measured, as results/speed/memory.md has it."""
    stored = (ROOT / "results/speed/memory.md").read_text()
    return "\n".join(line for line in stored.splitlines() if line[:1] == "|")


def _peak(phases: dict[str, Any], counter: str, phase: str | None) -> int:
    """Of a phase, or of the whole run: the highest of all."""
    peaks = {name: peaks[f"peak_{counter}_bytes"] for name, peaks in phases.items() if name != "predicted"}
    found = highest_phase(peaks)
    assert found is not None
    return int(peaks[phase] if phase else found[1])


def _shown(phases: dict[str, Any], counter: str = "allocated", phase: str | None = None) -> str:
    return f"{_peak(phases, counter, phase) / 2**20:,.0f}{PREDICTED if 'predicted' in phases else ''}"


def _phases(name: str, precision: Precision, attention: Attention) -> dict[str, Any]:
    """Peaks by phase of what was measured, or else of what is predicted."""
    point = MemoryPoint(name, RESOLUTION, precision=precision, attention=attention)
    path = MEASURED / f"{point.name}.json"
    if path.exists():
        return dict(read_point(path)["memory"]["phases"])
    return dict(predict_memory(point).as_record()["phases"]) | {"predicted": True}


def _published() -> list[dict[str, str]]:
    with (ROOT / "results/published/fpt_readme.csv").open() as file:
        return list(csv.DictReader(file))


def fpt_table() -> str:
    """What FPT and FPT+ cost beside a direct transcription of the papers, as results/speed/fpt.md has it."""
    cells = _stored_cells("results/speed/fpt.md")
    rows = []
    for name in ("fpt", "fpt_plus"):
        (peaks,) = (row[4:9] for row in cells if row[:4] == [name, str(RESOLUTION), "fp32", "sdpa"])
        (ratio,) = (row[4] for row in cells if row[:2] == [name, "cpu"] and len(row) == 5)
        rows.append([METHODS[name].title, *(f"{float(peak):,.0f}" for peak in peaks), f"{float(ratio):.1f}"])
    header = "| authors | naive | ours | with checkpointing | features and parameters alone | step: naive / ours"
    return markdown(header, "lrrrrrr", rows)


def side_table() -> str:
    """What side methods on features need in training, as results/speed/side_memory.md has it; all is predicted."""
    cells = [row for row in _stored_cells("results/speed/side_memory.md") if row[1] == str(RESOLUTION)]
    rows = [
        [f"`{name}`", precision, *(f"{int(size):,}{PREDICTED}" for size in sizes), ratio]
        for name, _, precision, *sizes, ratio in cells
        if "–" not in sizes
    ]
    header = "method | | features | weights and states | kept | floor | ours | transcription | preload | ours / floor"
    return markdown(header, "llrrrrrrrr", rows)


def rank_sizes() -> str:
    """How often tests over datasets tell equal methods apart, as results/speed/ranks.md has it."""
    cells = _stored_cells("results/speed/ranks.md")
    rows = [row for row in cells if len(row) == 5 and row[1] in ("3", "5", "8")]
    shown = [[row[0], row[1], *(f"{100 * float(share):.1f} %" for share in row[2:])] for row in rows]
    header = "methods | datasets | Friedman's chi-square | F distribution | permutation (ours)"
    return markdown(header, "rrrrr", shown)


def claim_sizes() -> str:
    """How often claims about AUC err, as results/speed/claims.md has it: images, one each, three seeds or more."""
    cells = [row for row in _stored_cells("results/speed/claims.md") if len(row) == 9]
    rows = [row for row in cells if row[1] == "no" and row[2] in ("3", "10") and row[3] in ("0.00", "0.02")]
    header = "images | seeds | SD over seeds | size, DeLong | size, ours | power | coverage, difference | coverage, AUC"
    return markdown(header, "rrrrrrrr", [[row[0], *row[2:]] for row in rows])


def stopping_sizes() -> str:
    """How often the rule that adds seeds errs, and what it saves, as results/speed/stopping.md has it."""
    cells = _stored_cells("results/speed/stopping.md")
    equal = [row for row in cells if len(row) == 9 and row[0].isdigit()]
    apart = [row for row in cells if len(row) == 10 and row[0].isdigit()]
    header = "methods, equal | images | SD over seeds | any dropped, to the end | as it is | runs, as it is | fixed"
    first = markdown(header, "rrrrrrr", [[*row[:5], *row[7:]] for row in equal])
    header = "images, best 0.02 ahead | SD over seeds | best dropped | others told, to the end | told, fixed"
    header += " | wrongly no worse | runs, to the end | as it is | fixed"
    rows = [[*row[:3], row[4], row[5], row[3], *row[7:]] for row in apart]
    return f"{first}\n\n{markdown(header, 'rrrrrrrrr', rows)}"


def _stored_cells(path: str) -> list[list[str]]:
    """The cells of every table of a stored page, row by row."""
    lines = (ROOT / path).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]


def rooms_table() -> str:
    """What lives in each room, as its docstring says, from the top."""
    rows = []
    for name in (name for layer in read_layers() for name in layer):
        path = ROOT / name.replace(".", "/")
        module = path / "__init__.py" if is_room(name) else path.with_suffix(".py")
        said = ast.get_docstring(ast.parse(module.read_text())) or ""
        said = said if name.startswith("benchmarks.") else said.partition("\n\n")[0]  # methods/ explains more there
        link = f"[{name.removeprefix('benchmarks.')}{'/' if is_room(name) else '.py'}](../{module.relative_to(ROOT)})"
        rows.append([link, " ".join(said.split())])
    return markdown("room | what lives there", "ll", rows)


def bounds_table() -> str:
    """What each number may be."""
    rows = [[f"`{name}`", bounds.rule] for name, bounds in BOUNDS.items()]
    return markdown("number | must be", "ll", rows)


def example() -> str:
    """The heart of the worked example."""
    source = (ROOT / "methods/adapters/ssf.py").read_text()
    build = inspect.getsource(ssf.build).rstrip()
    return f"```python\n{build}\n\n\n{source[source.index('METHOD = ') :].rstrip()}\n```"


def families_table() -> str:
    """Which methods run on one backbone of each family, and why others do not; those that go alike share a column."""
    reasons: dict[str, int] = {}
    columns: dict[tuple[str, ...], list[str]] = {}  # cells, and the methods that have them
    for method in METHODS.values():
        missing = [", ".join(lacks(name, method)) for name in FAMILIES]
        for reason in filter(None, missing):
            reasons.setdefault(reason, len(reasons) + 1)
        cells = ("yes" if not reason else f"no ({reasons[reason]})" for reason in missing)
        columns.setdefault(tuple(cells), []).append(f"`{method.name}`")
    rows = [
        [f"`{name}`", described(name).family, *cells]
        for name, cells in zip(FAMILIES, zip(*columns, strict=True), strict=True)
    ]
    header = f"backbone | family | {' | '.join(', '.join(methods) for methods in columns.values())}"
    said = [f"{number}. It has {reason}." for reason, number in reasons.items()]
    return "\n\n".join([markdown(header, "ll" + "l" * len(columns), rows), "\n".join(said)])


def backbones_memory() -> str:
    """What backbones of several families need, as results/speed/backbones.md has it; every number is predicted."""
    titles, _, *cells = _stored_cells("results/speed/backbones.md")
    rows = [[*row[:2], *(cell if cell == "–" else f"{cell}{PREDICTED}" for cell in row[2:])] for row in cells]
    return markdown(" | ".join(titles), "lr" + "r" * (len(titles) - 2), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "bounds": bounds_table,
    "methods": methods_table,
    "defaults": defaults_table,
    "datasets": datasets_table,
    "normalisation": normalisation_table,
    "rooms": rooms_table,
    "example": example,
    "memory": memory_table,
    "families": families_table,
    "backbones": backbones_memory,
    "predictions": predictions_table,
    "fpt": fpt_table,
    "side": side_table,
    "ranks": rank_sizes,
    "claims": claim_sizes,
    "stopping": stopping_sizes,
}
