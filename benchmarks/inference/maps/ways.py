"""The ways to make a map of what a model looks at, and which of them suit a model."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from benchmarks.choices import MAPS
from benchmarks.errors import UserError
from benchmarks.inference.maps.grad_cam import grad_cam_map
from benchmarks.inference.maps.occlusion import occlusion_map
from benchmarks.inference.maps.patches import PatchMap, Unsupported, Views, attention_map, backbone_of, patches_a_side
from benchmarks.inference.maps.rollout import rollout_map
from benchmarks.inference.trained import TrainedModel
from benchmarks.training.step import autocast
from methods import METHODS
from methods.contract import IMAGE


@torch.no_grad()
def own_attention_map(model: TrainedModel, views: Views, target: int) -> PatchMap:
    """What the method's queries or prompts read of each patch, averaged over them; the same for every class.

    Raises:
        Unsupported: It has none that read patches.
    """
    read, backbone = METHODS[model.config.method].attention_maps, backbone_of(model)
    if read is None or backbone is None:
        raise Unsupported("queries or prompts of the method's own that read the backbone's patches")
    with autocast(model.device.type, model.config.precision):
        maps = read(model.model, model.extractor, views).float()  # (1, K, N)
    side = patches_a_side(backbone, views[IMAGE].shape[-1], maps.shape[-1])
    return attention_map(maps[0].mean(dim=0), side)


class Way(NamedTuple):
    """A way to make a map: `make(model, views, class)`; what its numbers are; whether they are a class's."""

    make: Callable[[TrainedModel, Views, int], PatchMap]
    unit: str
    of_class: bool


_WAYS = (
    Way(own_attention_map, "share of the attention", False),
    Way(rollout_map, "share of the attention", False),
    Way(grad_cam_map, "for the class, no unit", True),
    Way(occlusion_map, "drop of the log probability", True),
)
WAYS = dict(zip(MAPS, _WAYS, strict=True))


def choose_way(model: TrainedModel, name: str | None) -> str:
    """The way that was named, or the first that suits; it is tried on a blank image.

    Raises:
        UserError: The one that was named does not suit the model.
    """
    blank = blank_views(model)
    reasons: dict[str, str] = {}
    for way in WAYS if name is None else (name,):
        try:
            WAYS[way].make(model, blank, 0)
            return way
        except Unsupported as reason:
            reasons[way] = str(reason)
    raise UserError(
        f"how must suit the model, got {name!r}, which needs {reasons.popitem()[1]}; choose among "
        f"{', '.join(suiting(model))}"
    )


def suiting(model: TrainedModel, among: Iterable[str] = MAPS) -> list[str]:
    """The ways that suit a model; each is tried on a blank image."""
    found = []
    for name in among:
        try:
            WAYS[name].make(model, blank_views(model), 0)
            found.append(name)
        except (Unsupported, UserError):
            continue
    return found


def blank_views(model: TrainedModel) -> Views:
    """What a model gets of an image that is grey all over."""
    sides = model.sides.items()
    return model.inputs({name: torch.full((1, 3, side, side), 128, dtype=torch.uint8) for name, side in sides})
