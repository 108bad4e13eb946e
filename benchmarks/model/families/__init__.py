"""The families of backbones: each answers what methods ask (`methods.backbone`); nothing else tells them apart."""

from typing import Any

from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.eva import Eva
from timm.models.resnet import ResNet as TimmResNet
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmarks.model.families.beit import BeitViT
from benchmarks.model.families.eva import EvaViT
from benchmarks.model.families.stages import AnyNetwork, ConvNeXt, ResNet, SwinV2
from benchmarks.model.families.vit import ViT
from methods.backbone import Backbone

# Arguments beside the class: rotary tables are of one size, and made once.
_FAMILIES: dict[type[nn.Module], tuple[type[Backbone], dict[str, Any]]] = {
    VisionTransformer: (ViT, {}),
    Eva: (EvaViT, {"dynamic_img_size": False}),
    Beit: (BeitViT, {}),
    SwinTransformerV2: (SwinV2, {}),
    TimmConvNeXt: (ConvNeXt, {}),
    TimmResNet: (ResNet, {}),
}


def family_of(trunk: nn.Module) -> tuple[type[Backbone], dict[str, Any]]:
    """The description of networks like this one, and the arguments that they are made with."""
    for kind, found in _FAMILIES.items():
        if isinstance(trunk, kind):
            return found
    return AnyNetwork, {}
