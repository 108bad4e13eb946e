"""A kept model handed over: as a checkpoint under timm's names, as a program of torch.export, or as ONNX.

All compute in fp32, whatever the precision of the run.
"""

import contextlib
import copy
import io
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from benchmarks.data.augment import Preprocessing
from benchmarks.errors import MissingError, UserError, one_line
from benchmarks.inference.trained import TrainedModel, merged
from benchmarks.model.backbone import create_backbone, head_prefixes
from benchmarks.model.build import Parts
from benchmarks.model.spec import parse_spec
from benchmarks.storage.files import not_writable, write_atomic
from benchmarks.storage.modes import make_folder
from benchmarks.training.quantized import dequantize
from methods.backbone import Backbone
from methods.contract import IMAGE, ImageModel
from methods.probes.linear import LinearProbe

TOLERANCE = 1e-4  # of logits, relative to the largest of them or to 1
CARD = "card"  # its key in the metadata of both kinds of files
LOGITS, BATCH = "logits", "batch"  # in ONNX
_ONE_FILE = 1.8 * 2**30  # bytes: of more, ONNX has the weights in a file beside it
_PROBED = 2  # images on which an export is compared


class Exportable(nn.Module):
    """A trained model with its preprocessing, from pixels alone: what can be written down as one program.

    Args:
        model: Is shared, not copied.

    Shape:
        - images: `(B, 3, side, side)` uint8, one tensor for each of `model.sides`, in their order
        - Output: logits `(B, C)`
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.names = tuple(model.sides)
        self.model, self.extractor, self.task = model.model, model.extractor, model.task
        statistics = model.card["dataset"]["normalization"]
        preprocessing = Preprocessing(statistics["mean"], statistics["std"], model.device)
        self.register_buffer("mean", preprocessing.mean)
        self.register_buffer("std", preprocessing.std)
        self.eval()

    def forward(self, *images: Tensor) -> Tensor:
        """Classifies a batch."""
        views = zip(self.names, images, strict=True)
        inputs = {name: (image.float() / 255 - self.mean) / self.std for name, image in views}
        if self.extractor is not None:
            inputs |= self.extractor(image=inputs.pop(IMAGE))
        return self.task.logits(self.model(**inputs).float())


def random_images(sides: Mapping[str, int], num_images: int, device: torch.device) -> tuple[Tensor, ...]:
    """Views of as many images of noise, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randint(0, 256, (num_images, 3, side, side), generator=generator, dtype=torch.uint8).to(device)
        for side in sides.values()
    )


@torch.no_grad()
def exported(model: TrainedModel) -> ExportedProgram:
    """The model as a program of torch.export for batches of any size.

    Raises:
        UserError: torch cannot write it down; the message says why.
    """
    images = random_images(model.sides, _PROBED, model.device)
    try:
        return torch.export.export(Exportable(model), images, dynamic_shapes=(tuple({0: Dim.DYNAMIC} for _ in images),))
    except Exception as error:  # whatever torch makes of the code of any method
        raise UserError(
            f"model must be one that torch.export can write down, got {model.config.method} ({one_line(error)[:300]}); "
            "use bench.py predict, or load_run in Python"
        ) from error


@torch.no_grad()
def export_onnx(model: TrainedModel, path: Path) -> float:
    """Writes a model as ONNX, its card in the metadata, once onnxruntime gives the same logits.

    Inputs are uint8 pixels, named as the views, of any number of images; the output is called `logits`. Weights of
    gigabytes lie beside it, in `<name>.data`.

    Returns:
        The largest difference of a logit on images of noise.

    Raises:
        MissingError: Packages are missing.
        UserError: The model cannot be written so, or computes something else then.
    """
    _check_packages()
    program = exported(model)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of torch about itself
            made: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=list(model.sides), output_names=[LOGITS],
            )  # fmt: skip
    except Exception as error:
        raise UserError(
            f"model must be one that torch.onnx can write, got {model.config.method} ({one_line(error)[:300]}); use "
            "bench.py predict, or torch.export in Python"
        ) from error
    made.model.metadata_props[CARD] = json.dumps(model.card, sort_keys=True)
    num_bytes = sum(tensor.nbytes for tensor in Exportable(model).state_dict().values())
    try:
        make_folder(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
            written = Path(scratch) / path.name
            made.save(written, external_data=num_bytes > _ONE_FILE)
            difference = _difference(model, written)
            for file in sorted(Path(scratch).iterdir(), reverse=True):  # the data first
                file.replace(path.parent / file.name)
    except OSError as error:
        raise not_writable(path.parent, error, "out") from error
    return difference


def _check_packages() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingError(
            f"packages for ONNX must be installed, got no {error.name}: pip install onnxscript onnxruntime"
        ) from error


def _difference(model: TrainedModel, path: Path) -> float:
    """How far onnxruntime is from the module, on another number of images than it was written with."""
    import onnxruntime

    images = random_images(model.sides, _PROBED + 1, model.device)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = {name: image.cpu().numpy() for name, image in zip(model.sides, images, strict=True)}
    (found,) = session.run([LOGITS], pixels)
    return _checked(model, Exportable(model)(*images), torch.from_numpy(np.asarray(found)), "ONNX")


def _checked(model: TrainedModel, logits: Tensor, found: Tensor, what: str) -> float:
    difference = float((logits.cpu() - found.cpu()).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(logits.abs().max())):
        raise UserError(
            f"{what} must give the logits of the model to {TOLERANCE:g}, got {difference:.2g} off with "
            f"{model.config.method}; use bench.py predict"
        )
    return difference


@torch.no_grad()
def export_merged(model: TrainedModel, path: Path) -> float:
    """Writes a model's whole network under timm's names, its card in the metadata, once that gives the same logits.

    What `timm.create_model` has to be given is in the card under `timm`; pixels are normalised as the card says.
    Quantised weights are written in fp32, what was added merged into them.

    Returns:
        The largest difference of a logit on images of noise.

    Raises:
        UserError: The method has parts that no network of timm has.
    """
    if model.task.name == "ordinal":
        raise _refusal(model, "outputs of CORN, which are no logits of classes")
    backbone, weight, bias = _whole(_in_fp32(model))
    classes, side = len(model.classes), model.sides[IMAGE]
    with torch.random.fork_rng():
        timms: Any = create_backbone(model.config.backbone, side).trunk
    timms.reset_classifier(classes)
    prefixes = head_prefixes(timms)
    state = backbone.trunk.state_dict() | {
        f"{prefix}{name}": tensor for prefix in prefixes for name, tensor in (("weight", weight), ("bias", bias))
    }
    try:
        timms.load_state_dict(state)
    except RuntimeError as error:
        raise _refusal(model, one_line(error)) from error
    timms.to(model.device).eval()
    images = random_images({IMAGE: side}, _PROBED, model.device)
    whole = Exportable(model)
    difference = _checked(model, whole(*images), timms((images[0].float() / 255 - whole.mean) / whole.std), "timm")
    spec = parse_spec(model.config.backbone)
    about = {"name": spec.name, "num_classes": classes, "side": side, "args": dict(spec.args)}
    text = json.dumps(model.card | {"timm": about}, sort_keys=True)
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in timms.state_dict().items()}
    write_atomic(path, bytes(save(tensors, {CARD: text})), "out", private=True)
    return difference


def _in_fp32(model: TrainedModel) -> TrainedModel:
    """The model as it is, or a copy whose weights are no longer quantised and have in them what was added."""
    if model.config.quantize == "none":
        return model
    parts = copy.deepcopy(Parts(model.model, model.extractor))
    for part in (parts.model, parts.extractor):
        if part is not None:
            dequantize(part)
    return TrainedModel(model.card, merged(model.card, parts), model.device)


def _whole(model: TrainedModel) -> tuple[Backbone, Tensor, Tensor]:
    """The backbone with all that was trained in it, and weight and bias of the head that reads its features.

    Raises:
        UserError: There is more to the model.
    """
    network, extractor = model.model, model.extractor
    if isinstance(network, LinearProbe) and extractor is not None:  # features are standardised before: folded in
        scaled = network.head.weight / network.std
        return extractor.backbone, scaled, network.head.bias - scaled @ network.mean  # type: ignore[return-value]
    pool = parse_spec(model.config.backbone).pool
    if not isinstance(network, ImageModel) or not isinstance(network.head, nn.Linear) or pool != "native":
        raise _refusal(model, f"{type(network).__name__}, {pool} pooling")
    if others := [name for name in network.state_dict() if not name.startswith(("backbone.trunk.", "head."))]:
        raise _refusal(model, ", ".join(others))
    return network.backbone, network.head.weight, network.head.bias


def _refusal(model: TrainedModel, why: str) -> UserError:
    return UserError(
        f"merged model must be a network of timm with a head, got {model.config.method}, which has or needs other "
        f"parts ({why[:200]}); export it with --onnx"
    )
