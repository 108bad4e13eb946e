"""The medical foundation models by name: one row each, as their cards and papers say.

Architecture and arguments are those of the authors' code under timm's names; where a card states no normalisation,
the row has that of the authors' training code. Licence and terms change: the page of the source counts.
"""

from collections.abc import Callable
from functools import partial

import timm
from timm.layers import SwiGLUPacked
from torch import nn

from benchmarks.model.named import NamedBackbone, Stats

_IMAGENET: tuple[Stats, Stats] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[Stats, Stats] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CLIP: tuple[Stats, Stats] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_BIOPTIMUS: tuple[Stats, Stats] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_HIBOU: tuple[Stats, Stats] = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
_PANDERM: tuple[Stats, Stats] = ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
# Without the activation timm passes GELU on, and the gate would be silently wrong.
_SWIGLU = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "init_values": 1e-5}
_VISIONFM: dict[str, tuple[Stats, Stats]] = {
    "Fundus": ((0.4237, 0.2609, 0.1284), (0.2948, 0.2017, 0.1367)),
    "OCT": ((0.2109, 0.2109, 0.2109), (0.1760, 0.1760, 0.1760)),
    "FFA": ((0.2020, 0.2020, 0.2020), (0.1741, 0.1741, 0.1741)),
    "Ultrasound": ((0.0599, 0.0598, 0.0567), (0.1543, 0.1550, 0.1446)),
    "MRI": ((0.1737, 0.1737, 0.1737), (0.1620, 0.1620, 0.1620)),
}


def _model(architecture: str, **arguments: object) -> Callable[..., nn.Module]:
    """Makes a timm model without a head; `img_size` in the call counts before that in `arguments`."""
    return partial(timm.create_model, architecture, pretrained=False, num_classes=0, **arguments)


def _gated(repository: str) -> str:
    return (
        f"accept the terms on https://huggingface.co/{repository}, then log in with `hf auth login` or put a token "
        "into the variable HF_TOKEN"
    )


def _from_page(page: str, file: str) -> str:
    return f"download {file} as {page} says and pass it with --weights FILE"


def _row(
    name: str,
    create: Callable[..., nn.Module],
    stats: tuple[Stats, Stats],
    pool: str,
    licence: str,
    source: str,
    file: str | None = None,
    gated: bool = False,
) -> NamedBackbone:
    access = _gated(source) if gated else _from_page(source, file or "the file") if "://" in source else None
    return NamedBackbone(name, create, *stats, pool, licence, source, file, access)  # type: ignore[arg-type]


# The MAE models pool as the authors fine-tune them: the mean of the patches, then a norm.
_RETFOUND = _model("vit_large_patch16_224", global_pool="avg")
_RETFOUND_DINOV2 = _model("vit_large_patch14_dinov2", img_size=224)
_UNI2 = _model(
    "vit_giant_patch14_224", depth=24, num_heads=24, embed_dim=1536, mlp_ratio=5.33334, reg_tokens=8,
    no_embed_class=True, **_SWIGLU,
)  # fmt: skip
_H_OPTIMUS = _model("vit_giant_patch14_reg4_dinov2", img_size=224, init_values=1e-5)
_H0_MINI = _model("vit_base_patch14_reg4_dinov2", img_size=224, mlp_ratio=5.33334, **_SWIGLU)
_GIGAPATH = _model(
    "vit_giant_patch14_dinov2", img_size=224, patch_size=16, mlp_ratio=5.33334, init_values=1e-5
)  # fmt: skip
# Hugging Face's ViT has its own epsilon.
_PHIKON = _model("vit_base_patch16_224", norm_layer=partial(nn.LayerNorm, eps=1e-12))
_PANDERM_LARGE = _model(
    "eva_giant_patch14_224", patch_size=16, embed_dim=1024, depth=24, num_heads=16, mlp_ratio=4, init_values=0.1,
    qkv_bias=True, global_pool="token",
)  # fmt: skip
_PANDERM_BASE = _model(
    "eva_giant_patch14_224", patch_size=16, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4, init_values=0.1,
    qkv_bias=True, global_pool="token",
)  # fmt: skip
# DINOv2's own SwiGLU has 8/3 of the width, rounded up to a multiple of 8.
_CHEXFOUND = _model(
    "vit_large_patch16_224", img_size=512, reg_tokens=4, no_embed_class=True, mlp_ratio=2 * 2736 / 1024, **_SWIGLU
)

_ROWS = (
    _row(
        "retfound", _RETFOUND, _IMAGENET, "avg", "cc-by-nc", "YukunZhou/RETFound_mae_natureCFP",
        "RETFound_mae_natureCFP.pth", gated=True,
    ),
    _row(
        "retfound-oct", _RETFOUND, _IMAGENET, "avg", "cc-by-nc", "YukunZhou/RETFound_mae_natureOCT",
        "RETFound_mae_natureOCT.pth", gated=True,
    ),
    _row(
        "retfound-dinov2", _RETFOUND_DINOV2, _IMAGENET, "cls", "cc-by-nc", "YukunZhou/RETFound_dinov2_meh",
        "RETFound_dinov2_meh.pth", gated=True,
    ),
    _row(
        "rad-dino", _model("vit_base_patch14_dinov2"), ((0.5307,) * 3, (0.2583,) * 3), "cls", "mit",
        "microsoft/rad-dino",
    ),
    _row(
        "uni", _model("vit_large_patch16_224", init_values=1e-5), _IMAGENET, "cls", "cc-by-nc-nd", "MahmoodLab/UNI",
        gated=True,
    ),
    _row("uni2-h", _UNI2, _IMAGENET, "cls", "cc-by-nc-nd", "MahmoodLab/UNI2-h", gated=True),
    _row(
        "virchow", _model("vit_huge_patch14_224", mlp_ratio=5.3375, **_SWIGLU), _IMAGENET, "cls+avg", "apache-2.0",
        "paige-ai/Virchow", gated=True,
    ),
    _row(
        "virchow2", _model("vit_huge_patch14_224", mlp_ratio=5.3375, reg_tokens=4, **_SWIGLU), _IMAGENET, "cls+avg",
        "cc-by-nc-nd", "paige-ai/Virchow2", gated=True,
    ),
    _row("h-optimus-0", _H_OPTIMUS, _BIOPTIMUS, "cls", "apache-2.0", "bioptimus/H-optimus-0", gated=True),
    _row("h-optimus-1", _H_OPTIMUS, _BIOPTIMUS, "cls", "research-only", "bioptimus/H-optimus-1", gated=True),
    _row("h0-mini", _H0_MINI, _BIOPTIMUS, "cls", "research-only", "bioptimus/H0-mini", gated=True),
    _row("prov-gigapath", _GIGAPATH, _IMAGENET, "cls", "apache-2.0", "prov-gigapath/prov-gigapath", gated=True),
    _row("phikon", _PHIKON, _IMAGENET, "cls", "non-commercial", "owkin/phikon"),
    _row(
        "phikon-v2", _model("vit_large_patch14_dinov2", img_size=224, patch_size=16), _IMAGENET, "cls",
        "non-commercial", "owkin/phikon-v2",
    ),
    _row(
        "hibou-b", _model("vit_base_patch14_reg4_dinov2", img_size=224), _HIBOU, "cls", "apache-2.0", "histai/hibou-b",
        gated=True,
    ),
    _row(
        "hibou-l", _model("vit_large_patch14_reg4_dinov2", img_size=224), _HIBOU, "cls", "apache-2.0",
        "histai/hibou-L", gated=True,
    ),
    _row(
        "midnight", _model("vit_giant_patch14_dinov2", img_size=224), _HALF, "cls", "mit", "kaiko-ai/midnight",
    ),
    _row(
        "biomedclip", _model("vit_base_patch16_224"), _CLIP, "cls", "mit",
        "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "open_clip_pytorch_model.bin",
    ),
    _row(
        "medsiglip", _model("vit_so400m_patch14_siglip_384", img_size=448, act_layer="gelu_tanh"), _HALF, "native",
        "hai-def", "google/medsiglip-448", gated=True,
    ),
    _row(
        "panderm", _PANDERM_LARGE, _PANDERM, "cls", "cc-by-nc-nd", "https://github.com/SiyuanYan1/PanDerm",
        "panderm_ll_data6_checkpoint-499.pth",
    ),
    _row(
        "panderm-base", _PANDERM_BASE, _PANDERM, "cls", "cc-by-nc-nd", "https://github.com/SiyuanYan1/PanDerm",
        "panderm_bb_data6_checkpoint-499.pth",
    ),
    *(  # the authors join the class tokens of the last four blocks for their probes
        _row(
            f"visionfm-{modality.lower()}", _model("vit_base_patch16_224"), stats, "cls", "cc-by-nc",
            "https://github.com/ABILab-CUHK/VisionFM", f"VFM_{modality}_weights.pth",
        )
        for modality, stats in _VISIONFM.items()
    ),
    _row(
        "chexfound", _CHEXFOUND, _IMAGENET, "cls", "none-stated", "https://github.com/RPIDIAL/CheXFound",
        "teacher_checkpoint.pth",
    ),
    _row(
        "usfm", _model("beit_base_patch16_224"), _IMAGENET, "avg", "cc-by-nc", "https://github.com/openmedlab/USFM",
        "USFM_latest.pth",
    ),
)  # fmt: skip

MEDICAL: dict[str, NamedBackbone] = {row.name: row for row in _ROWS}
