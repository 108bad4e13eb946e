"""Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391) on the last places that all count, by captum."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.errors import MachineError
from benchmarks.inference.maps.patches import PatchMap, Unsupported, Views, backbone_of, patches_a_side
from benchmarks.inference.trained import TrainedModel
from benchmarks.training.step import autocast
from methods.backbone import Backbone, Tap
from methods.contract import IMAGE


def grad_cam_map(model: TrainedModel, views: Views, target: int) -> PatchMap:
    """What speaks for a class: `relu(sum_c mean_places(d logit / d A_c) A_c)` of the layer's channels A_c.

    The layer is `Backbone.last_places`.

    Raises:
        Unsupported: The logits have no gradient there, or depend on more of the image than what is there.
        MachineError: captum is not installed.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise MachineError(
            "grad-cam must have captum, which is not installed: pip install captum, or take --how occlusion"
        ) from error
    backbone = backbone_of(model)
    if backbone is None or "blocks" in backbone.lacks or not backbone.blocks():
        raise Unsupported("a backbone whose layers are known")
    side = views[IMAGE].shape[-1]
    with torch.enable_grad(), _as_maps(backbone, backbone.last_places(), side) as layer:
        _check_complete(model, views, layer)
        cam = LayerGradCam(lambda image: _logits(model, views | {IMAGE: image}), layer)
        found = cam.attribute(views[IMAGE], target=target, relu_attributions=True)
    return PatchMap(found[0, 0].detach().float().cpu())


class _Maps(nn.Identity):
    """The layer that Grad-CAM is asked of: its output is `(B, C, h, w)`; `seen` counts what passed."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        self.seen += 1
        return super().forward(x)


@contextmanager
def _as_maps(backbone: Backbone, tap: Tap, resolution: int) -> Iterator[_Maps]:
    """A layer through which the places of a tap pass as maps, cut off from what is before it."""
    layer = _Maps()

    def through(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        if x.ndim == 4:  # (B, C, h, w) or (B, h, w, C)
            return layer(x.movedim(tap.axis, 1)).movedim(1, tap.axis)
        side = patches_a_side(backbone, resolution, x.shape[1])
        before, places = x[:, : -side * side], x[:, -side * side :]
        maps = layer(places.mT.unflatten(2, (side, side)))
        return torch.cat([before, maps.flatten(2).mT], dim=1)

    if tap.of_input:
        handle: Any = tap.layer.register_forward_pre_hook(lambda _, args: (through(args[0]), *args[1:]))
    else:
        handle = tap.layer.register_forward_hook(lambda _, __, x: through(x))
    try:
        yield layer
    finally:
        handle.remove()


def _check_complete(model: TrainedModel, views: Views, layer: _Maps) -> None:
    """Checks that all that the logits know of the image passes the layer: nothing else leads back to it."""
    asked = {name: view.clone().requires_grad_() for name, view in views.items()}
    logits = _logits(model, asked)
    if not layer.seen or not logits.requires_grad:
        raise Unsupported("a gradient from the logits to the backbone's last places; this method has none")
    others = torch.autograd.grad(logits.sum(), list(asked.values()), allow_unused=True)
    if any(gradient is not None for gradient in others):
        raise Unsupported(
            "logits that are made of the backbone's last places alone; this method reads other layers too"
        )


def _logits(model: TrainedModel, inputs: Views) -> Tensor:
    """Logits with their gradient; the steps of a run have none."""
    with autocast(model.device.type, model.config.precision):
        if model.extractor is not None:
            given = {name: view for name, view in inputs.items() if name != IMAGE}
            inputs = given | model.extractor(image=inputs[IMAGE])
        return model.task.logits(model.model(**inputs).float())
