"""A trained model in use: images in, logits out, in the preprocessing of its training.

from benchmarks.inference.trained import load_run

model = load_run("results", "demo-512-fpt-s0-0123456789")
paths = ["a.png", "b.dcm"]
logits = model(model.read(paths))  # (2, C); model.classes names the columns
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.config import RunConfig
from benchmarks.data.augment import Preprocessing
from benchmarks.errors import UserError
from benchmarks.images.decode import PIXEL_FORMAT, Pixels, decoding_side, read_thumbnail, read_views, resized
from benchmarks.images.depth import Scale
from benchmarks.inference.card import Card, read_model, unpacked
from benchmarks.inference.kept import Kept, put_back
from benchmarks.inference.stored_models import stored_model
from benchmarks.model.backbone import is_backbone
from benchmarks.model.build import Parts, build_parts
from benchmarks.model.method_config import make_config
from benchmarks.model.resolved_weights import Weights
from benchmarks.model.spec import parse_spec
from benchmarks.model.weights import load_weights, resolve_weights
from benchmarks.plugins import digests_of
from benchmarks.records.schema import num_images
from benchmarks.tasks import TASKS, Task
from benchmarks.training.frozen import save_weights
from benchmarks.training.step import evaluation_step, extraction_step, forbid_tf32
from methods import METHODS
from methods.contract import IMAGE

CACHE = Path(".cache")


class TrainedModel(nn.Module):
    """What a run has trained, in eval mode: views of images in, logits out.

    A view is an image resized to a square, as `read` and `views` make them; a method may want several of each image.
    `forward` takes views, or whole images, of which it makes them. The computation is the run's: its precision, its
    attention, its normalisation. The batch that it was evaluated with is `batch_size`: others add up in another order,
    and logits differ in the last bits.

    Args:
        card: Of its file.
        parts: Model and extractor, with the weights that were trained.
        device: Where it runs.

    Attributes:
        card: All that is known of it.
        config: The settings of the run.
        classes: Names of the classes, in the order of the logits.
        sides: Of its views (px), by name.
        batch_size: The run's.
    """

    def __init__(self, card: Card, parts: Parts, device: torch.device) -> None:
        super().__init__()
        self.card, self.config = card, _config_of(card)
        self.classes = tuple(card["dataset"]["classes"])
        self.sides: dict[str, int] = card["input"]["views"]
        self.batch_size = self.config.batch_size
        self.model, self.extractor = parts.model, parts.extractor
        statistics = card["dataset"]["normalization"]
        self._preprocessing = Preprocessing(statistics["mean"], statistics["std"], device)
        self._scale = None if card["dataset"].get("scale") is None else Scale(**card["dataset"]["scale"])
        self.requires_grad_(False)
        self.to(device)
        self.eval()

    @property
    def task(self) -> Task:
        """What it is asked: it turns logits into probabilities."""
        return TASKS[self.config.loss]

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._preprocessing.mean.device

    def read(self, paths: Iterable[str | Path]) -> dict[str, Tensor]:
        """Views of image files, DICOM among them, by the code that read the images of the training.

        Raises:
            UserError: A file cannot be read; the message names it.
        """
        found = [self.read_one(Path(path)) for path in paths]
        return {name: torch.from_numpy(np.stack([views[name] for views in found])) for name in self.sides}

    def read_one(self, path: Path) -> dict[str, Pixels]:
        """The views `(3, side, side)` of one file."""
        sides = list(self.sides.values())
        return dict(zip(self.sides, read_views(path, sides, decoding_side(sides), self._scale), strict=True))

    def shown(self, path: Path, side: int) -> Image.Image:
        """One file for people to look at, its grey values as the model sees them: in its own proportions.

        Args:
            path: The file.
            side: Of the square that it fits into, in pixels.
        """
        return read_thumbnail(path, side, self._scale)

    def views(self, images: Iterable[Image.Image | Tensor]) -> dict[str, Tensor]:
        """Views of whole images of any size: upright, PIL's, or tensors `(3, H, W)` or `(H, W)` of uint8.

        They are resized as those of the training were. `read` is the way for files: a JPEG much larger than its views
        is decoded at a fraction of its size there.
        """
        upright = [image if isinstance(image, Image.Image) else _as_image(image) for image in images]
        found = [resized(image.convert("RGB"), self.sides.values()) for image in upright]
        return {
            name: torch.from_numpy(np.stack([views[place] for views in found])) for place, name in enumerate(self.sides)
        }

    def forward(self, images: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Classifies a batch, of whole images or of views that were made before.

        Shape:
            - images: one `(3, H, W)` or several `(B, 3, H, W)`, uint8; or views `(B, 3, side, side)` uint8, by name
            - Output: logits `(B, C)`, fp32
        """
        if isinstance(images, Tensor):
            images = self.views(images if images.ndim == 4 else [images])
        return self.logits(self.inputs(images))

    def inputs(self, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What extractor and model get of views: normalised, in fp32, on the model's device."""
        return {name: self._preprocessing(views[name].to(self.device)) for name in self.sides}

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Classifies what `inputs` gives: `(B, C)`, fp32."""
        precision, device, given = self.config.precision, self.device.type, dict(inputs)
        if self.extractor is not None:
            given |= extraction_step(self.extractor, given.pop(IMAGE), precision, device)
        return evaluation_step(self.model, given, precision, device, self.config.loss)


def _as_image(pixels: Tensor) -> Image.Image:
    if pixels.dtype != torch.uint8 or pixels.ndim not in (2, 3):
        raise UserError(
            f"image must be uint8 of (3, H, W) or (H, W), got {pixels.dtype} of {tuple(pixels.shape)}; scale it to "
            "0-255 first, or read its file"
        )
    return Image.fromarray((pixels if pixels.ndim == 2 else pixels.permute(1, 2, 0)).cpu().contiguous().numpy())


def load_run(
    results: str | Path,
    run_id: str,
    device: str = "cpu",
    cache: str | Path = CACHE,
    weights: str | None = None,
    merge: bool = True,
) -> TrainedModel:
    """The model of a stored run.

    Args:
        results: The results folder.
        run_id: The run, as `bench.py list runs` names it.
        device, cache, weights, merge: As of `load_model`.

    Raises:
        UserError: There is no such run, no model of it is kept, its file is not what was stored, or it cannot be used.
    """
    path, data = stored_model(Path(results), run_id)
    return _loaded(path, data, device, Path(cache), weights, merge)


def load_model(
    path: str | Path,
    device: str = "cpu",
    cache: str | Path = CACHE,
    weights: str | None = None,
    merge: bool = True,
) -> TrainedModel:
    """The model of a file that a run has kept, wherever that was taken.

    On a GPU it forbids TF32, as runs do. Plugins that the run used have to be loaded before.

    Args:
        path: The file.
        device: `cpu` or `cuda:<n>`.
        cache: Where the backbone's weights are looked for, and downloaded to.
        weights: A file of the backbone's weights; None for the place they were from.
        merge: Whether additions are merged into the weights, where the method does so, as for the run's test; they
            never are into quantised ones.

    Raises:
        UserError: It is no such file, or what it needs is missing or another than it was.
    """
    return _loaded(Path(path), read_model(Path(path)), device, Path(cache), weights, merge)


def _loaded(path: Path, data: bytes, device: str, cache: Path, weights: str | None, merge: bool) -> TrainedModel:
    card, kept = unpacked(path, data)
    if card["input"]["pixel_format"] != PIXEL_FORMAT:
        raise UserError(
            f"model must have been trained on pixels of format {PIXEL_FORMAT}, as this version reads them, got "
            f"{card['input']['pixel_format']!r} in {str(path)!r}; use the version that trained it"
        )
    return in_use(card, kept, device, cache, weights, merge, str(path))


def in_use(
    card: Card, kept: Kept, device: str, cache: Path, weights: str | None, merge: bool, name: str
) -> TrainedModel:
    """The model that a card and what was kept describe.

    Args:
        card, kept: Of its file.
        device, cache, weights, merge: As of `load_model`.
        name: For messages.
    """
    parts = build_trained(card, kept, cache, weights, name)
    if merge and _config_of(card).quantize == "none":
        parts = merged(card, parts)
    place = torch.device(device)
    if place.type == "cuda":
        forbid_tf32()
    return TrainedModel(card, parts, place)


def build_trained(card: Card, kept: Kept, cache: Path, weights: str | None, name: str) -> Parts:
    """A run's parts as training has left them.

    Args:
        card, kept: Of its file.
        cache: As of `load_model`.
        weights: As of `load_model`.
        name: For messages.
    """
    config, classes = _config_of(card), card["dataset"]["classes"]
    _check_known(config)
    state = None if kept.is_whole else load_weights(_weights_of(card, config, cache, weights))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        parts = build_parts(
            config.method, make_config(config.method, config.method_settings()), config.backbone,
            TASKS[config.loss].num_outputs(len(classes)), card["input"]["views"][IMAGE], config.attention, False, state,
        )  # fmt: skip
    save_weights(parts, config)
    if not put_back(parts, kept):
        raise UserError(
            f"model must have what it does not hold built as in its training, got others for {name!r}: versions of "
            f"torch or timm may differ from {card['environment']['torch']} and {card['environment']['timm']}; use those"
        )
    parts.model.eval()
    return parts


def merged(card: Card, parts: Parts) -> Parts:
    """The parts as they are used: with what was added merged into the weights, where the method does so."""
    config = _config_of(card)
    some = card["dataset"].get("trained_on")
    num_train = some["num_images"] if some and not config.keep_steps else num_images(card["dataset"], "train")
    num_steps = config.num_steps(num_train)
    recipe = METHODS[config.method].recipe(parts.model, make_config(config.method, config.method_settings()), num_steps)
    if recipe.before_inference is None:
        return parts
    return Parts(recipe.before_inference(parts.model).eval(), parts.extractor)


def _config_of(card: Card) -> RunConfig:
    """The settings of the run; those that this version does not know are not read."""
    known = {field.name for field in dataclasses.fields(RunConfig)}
    return RunConfig(**{name: _as_tuples(value) for name, value in card["config"].items() if name in known})


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _check_known(config: RunConfig) -> None:
    """Checks that method and backbone are here, as they were; a plugin of the dataset alone is not needed."""
    for kind, name, known in (
        ("method", config.method, config.method in METHODS),
        ("backbone", config.backbone, is_backbone(parse_spec(config.backbone).name)),
    ):
        if not known:
            files = ", ".join(file for file, _ in config.plugins) or "the version that trained the model"
            raise UserError(f"{kind} must be one that is known here, got {name!r}; name with --plugin, or use: {files}")
    here = digests_of(config.method, config.backbone)
    for file, digest in config.plugins:
        if here.get(file, digest) != digest:
            raise UserError(f"plugin {file} must be what it was in training, got another content; use the one of then")


def _weights_of(card: Card, config: RunConfig, cache: Path, file: str | None) -> Weights:
    """The backbone's weights, the very ones that the model was trained on.

    Raises:
        UserError: They are others, or were in a file that was not named.
    """
    if config.weights == "file" and file is None:
        name = card["weights"].get("file")
        raise UserError(
            f"weights must be named where the model was trained on those of a file, got none; pass {name} "
            f"(SHA-256 {card['weights'].get('original_sha256') or config.weights_sha256}) with --weights FILE"
        )
    found = resolve_weights(file or config.weights, config.backbone, cache, config.resample_patch_embed)
    if found.sha256 != config.weights_sha256:
        raise UserError(
            f"weights must be those that the model was trained on, with the SHA-256 {config.weights_sha256}, got "
            f"{found.sha256}; pass their file with --weights FILE"
        )
    return found
