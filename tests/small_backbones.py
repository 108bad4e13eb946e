"""Small networks of every family, for tests."""

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.model.backbone import create_backbone, described
from benchmarks.model.build import Parts, build_parts
from benchmarks.model.method_config import make_config
from benchmarks.training.step import extraction_step
from methods import METHODS
from methods.backbone import Backbone

SMALL = "depth=2,embed_dim=48,num_heads=3"
ROTARY = {
    "dinov3": f"vit_small_patch16_dinov3[{SMALL}]",
    "dinov3, biases": f"vit_small_patch16_dinov3_qkvb[{SMALL}]",
    "dinov3, swiglu": f"vit_small_plus_patch16_dinov3[{SMALL}]",
    "eva02, joint": f"eva02_tiny_patch14_224[{SMALL}]",
    "eva02, apart": f"eva02_base_patch14_224[{SMALL}]",
    "eva02 clip": f"eva02_base_patch16_clip_224[{SMALL}]",
    "perception encoder": f"vit_pe_core_tiny_patch16_384[{SMALL}]",
    "pe spatial": f"vit_pe_spatial_tiny_patch16_512[{SMALL}]",
    "rope mixed": f"vit_small_patch16_rope_mixed_ape_224[{SMALL}]",
}
PLAIN = {
    "augreg": f"vit_tiny_patch16_224[{SMALL}]",
    "mae, pre-norm": f"vit_base_patch16_clip_quickgelu_224[{SMALL}]",
    "dinov2": f"vit_small_patch14_reg4_dinov2[{SMALL}]",
    "dinov2 giant's mlp": f"vit_giant_patch14_dinov2[{SMALL}]",
    "deit3": f"deit3_small_patch16_224[{SMALL}]",
    "distilled": f"deit_tiny_distilled_patch16_224[{SMALL}]",
    "siglip": f"vit_base_patch16_siglip_224[{SMALL}]",
    "siglip, mean": f"vit_base_patch16_siglip_gap_224[{SMALL}]",
    "aimv2": f"aimv2_large_patch14_224[{SMALL}]",
    "beit3": f"beit3_base_patch16_224[{SMALL}]",
    "eva": f"eva_giant_patch14_224[{SMALL}]",
}
OTHERS = {
    "beit": f"beit_base_patch16_224[{SMALL}]",
    "beitv2": f"beitv2_base_patch16_224[{SMALL}]",
    "swinv2": "swinv2_tiny_window8_256[depths=[1,2,1,1],embed_dim=12,num_heads=[1,1,2,2]]",
    "convnext": "convnext_tiny[depths=[1,2,1,1],dims=[8,16,16,32]]",
    "convnext, dinov3": "convnext_tiny.dinov3_lvd1689m[depths=[1,1,1,1],dims=[8,16,16,32]]",
    "convnextv2": "convnextv2_tiny[depths=[1,1,1,1],dims=[8,16,16,32]]",
    "resnet50": "resnet50[layers=[1,1,1,1],channels=[8,16,16,32]]",
    "parallel": f"vit_base_patch16_xp_224[{SMALL}]",
    "post-norm": f"vit_base_patch16_rpn_224[{SMALL}]",
}
ALL = ROTARY | PLAIN | OTHERS
TOKENS = ROTARY | PLAIN
STAGES = ("swinv2", "convnext", "convnext, dinov3", "convnextv2", "resnet50")
ONE_BRANCH = ("convnext", "convnext, dinov3", "convnextv2", "resnet50")
REFUSED = {  # by what the tests' table calls them; every other pair runs
    **{
        (family, method): "a bias for each pair of positions"
        for family in ("beit", "beitv2")
        for method in ("vpt", "fpt", "ssf")
    },
    **{(family, method): "no token sequence" for family in STAGES for method in ("vpt", "fpt", "ssf")},
    **{(family, method): "no attention" for family in ONE_BRANCH for method in ("attention", "adaptformer")},
    **{(family, "ssf"): "biases of queries and values beside their projection" for family in (*ROTARY, "eva")},
    **{(family, "convpass"): "no attention" for family in ONE_BRANCH},
    ("swinv2", "convpass"): "norms behind the branches",
    ("parallel", "convpass"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("post-norm", "convpass"): r"blocks of another kind \(ResPostBlock\)",
    **{(family, "fact_tt"): "no attention" for family in ONE_BRANCH},
    **{
        (family, "fact_tt"): "linear layers whose sizes are no multiples of its width"
        for family in ("eva02, joint", "eva02, apart", "eva02 clip", "dinov2 giant's mlp", "aimv2", "eva")
    },
    ("swinv2", "fact_tt"): "stages of different widths",
    ("parallel", "fact_tt"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("post-norm", "fact_tt"): r"blocks of another kind \(ResPostBlock\)",
    ("aimv2", "ssf"): r"an MLP of another kind \(SwiGLU\)",
    ("parallel", "ssf"): "no joint projection of queries, keys and values",
    ("post-norm", "ssf"): r"blocks of another kind \(ResPostBlock\)",
    ("parallel", "adaptformer"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("post-norm", "adaptformer"): r"blocks of another kind \(ResPostBlock\)",
    ("resnet50", "adapter"): "blocks without an MLP",
    ("parallel", "lora"): "no joint projection of queries, keys and values",
    ("parallel", "adapter"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("parallel", "fpt"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("parallel", "attention"): r"blocks of another kind \(ParallelScalingBlock\)",
    ("post-norm", "adapter"): r"blocks of another kind \(ResPostBlock\)",
    ("post-norm", "fpt"): r"blocks of another kind \(ResPostBlock\)",
}
ALIKE = {"vpt_shallow": "vpt", "fpt_plus": "fpt", "houlsby": "adaptformer", "difffit": "adaptformer"}
ALIKE |= {"repadapter": "convpass", "fact_tk": "fact_tt"}
ALIKE |= dict.fromkeys(("vqt", "synqt", "side_tuning"), "fpt")
ALIKE |= {"lst": "fpt", **dict.fromkeys(("res_tuning_bypass", "unipt", "dtl", "dtl_plus"), "vpt")}
WITH_SIDE_VIT = ("fpt", "fpt_plus", "side_tuning")
ALIKE |= dict.fromkeys(("dora", "rslora", "adalora", "hira"), "lora")
LINEAR: tuple[str, ...] = (
    "pissa",
    "eva",
    "lora_ga",
    "vera",
    "lokr",
    "loha",
    "oft",
    "boft",
    "hra",
    "fourierft",
    "randlora",
    "miss",
)
LINEAR += ("road", "shira", "delora", "peft")  # as `lora`, but on linear layers alone
ALIKE |= dict.fromkeys(set(LINEAR) - {"oft", "peft"}, "pissa")
REFUSED |= {
    **{(family, method): "no attention" for family in ONE_BRANCH for method in ("oft", "peft")},
    **{("parallel", method): REFUSED["parallel", "lora"] for method in ("oft", "peft")},
    ("parallel", "pissa"): REFUSED["parallel", "lora"],
    ("resnet50", "pissa"): "convolutions in place of linear layers",
    ("parallel", "ia3"): REFUSED["parallel", "adapter"],
    ("post-norm", "ia3"): REFUSED["post-norm", "adapter"],
    ("resnet50", "ia3"): REFUSED["resnet50", "adapter"],
}
# Methods on the layers that `lora` updates: it runs on all families, they on one of each kind of layers.
LIKE_LORA = ("dora", "rslora", "adalora", "hira", "ia3", *LINEAR)
KINDS = ("augreg", "eva02, apart", "beit", "swinv2", "convnext", "resnet50", "parallel", "post-norm")
# What divides the width of every small network.
NARROW: dict[str, dict[str, object]] = {"ep": {"num_queries": 4}, "attentive_probe": {"head_dim": 16}}
NARROW |= {
    **{method: {"rank": 4} for method in ("pissa", "eva", "lora_ga", "hra", "miss")},
    "oft": {"block_size": 4},
    "rslora": {"alpha": 4},  # a factor of 1
    "fourierft": {"num_frequencies": 50},
    "shira": {"rank": 2},
}


def reason(family: str, method: str) -> str | None:
    return REFUSED.get((family, ALIKE.get(method, method)))


def awake(backbone: Backbone) -> Backbone:
    """All weights at random: scales of 1e-5, and norms and biases that start at 0, would hide what is done to them."""
    generator = torch.Generator().manual_seed(1)
    for parameter in backbone.trunk.parameters():
        spread = 0.5 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.5
        parameter.data += spread * torch.randn(parameter.shape, generator=generator)
    return backbone


def with_settings(family: str, settings: str) -> str:
    return f"{ALL[family].removesuffix(']')},{settings}]"


def make(family: str, factor: int = 4) -> tuple[Backbone, Tensor]:
    """A backbone with random weights, and two images of some patches' side."""
    torch.manual_seed(0)
    side = factor * described(ALL[family]).stride
    return awake(create_backbone(ALL[family], side)).eval(), torch.randn(2, 3, side, side)


def make_parts(family: str, method: str, factor: int = 4, **options: object) -> tuple[Parts, dict[str, Tensor]]:
    torch.manual_seed(0)
    if method in WITH_SIDE_VIT:
        options |= {"side_resolution": 32, "side_reduction": 2}
    options = NARROW.get(method, {}) | options
    config = make_config(method, options)
    resolution = factor * described(ALL[family]).stride
    parts = build_parts(method, config, ALL[family], 3, resolution)
    if isinstance(getattr(parts.model, "backbone", None), Backbone):
        awake(parts.model.backbone)  # type: ignore[arg-type]
    sides = METHODS[method].views(config, resolution)
    views = {name: torch.randn(4, 3, side, side) for name, side in sides.items()}
    if parts.extractor is not None:
        views |= extraction_step(parts.extractor, views.pop("image"), "fp32", "cpu")
    if METHODS[method].gradient_free:
        prepare: Any = METHODS[method].recipe(parts.model, config, 0).prepare
        prepare(parts.model, [(views, torch.arange(4) % 3)] * 5)
    return parts, views
