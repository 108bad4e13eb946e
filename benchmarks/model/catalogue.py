"""All backbones there are, to be looked through: what tables say of each, and what only its network can say."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import timm

from benchmarks.model.backbone import BACKBONES, described, lacks, tags_of
from benchmarks.model.hub import WEIGHT_FILES
from benchmarks.model.medical import MEDICAL
from benchmarks.model.named import NamedBackbone
from benchmarks.model.weight_cache import cache_name, timm_name
from benchmarks.model.wheel import WHEEL_BACKBONE
from methods import METHODS


@dataclass(frozen=True)
class Entry:
    """What tables say of a backbone.

    Attributes:
        name: With its tag, where timm has several weights for it; the first is what the name alone stands for.
        module: Of timm, that its network is from; `medical` for one of our own table, `plugin` for that of a plugin.
        resolution: Side (px) of the images that it was pretrained with; None where only its network knows.
        licence: Of its weights; None where nobody states it.
        weights: `cache` where they are on this disk, else where they come from: `wheel`, `hub`, `gated` (of the hub,
            once its terms are accepted), `page` (by hand); None for none.
    """

    name: str
    module: str
    resolution: int | None
    licence: str | None
    weights: str | None

    @property
    def architecture(self) -> str:
        """Its name without a tag: one network for all of them."""
        return self.name if self.module in ("medical", "plugin") else self.name.partition(".")[0]


def entries(part: str, cache: Path) -> list[Entry]:
    """All backbones with `part` in their name or module, in any case; those of plugins first, then our own.

    Args:
        part: Of a name; an empty one is in all.
        cache: Folder of the caches, whose `weights` may hold some.
    """
    return [entry for entry in _all(cache) if part.lower() in f"{entry.name} {entry.module}".lower()]


def details(entry: Entry) -> dict[str, Any]:
    """What its network says of a backbone, made on the meta device, which takes up to some seconds.

    Returns:
        `family`; `width` of its tokens, else of its features; `depth`, its number of blocks; `patch`, the side (px) of
        a patch, or the stride; `resolution`; `million_parameters`, without its head; `methods` that run on it.
    """
    name = entry.architecture
    backbone = described(name)
    head = set(backbone.head_parameters())
    runs = [method.name for method in METHODS.values() if not lacks(name, method)]
    return {
        "family": backbone.family,
        "width": getattr(backbone, "embed_dim", backbone.num_features),
        "depth": None if "blocks" in backbone.lacks else len(backbone.blocks()),
        "patch": backbone.stride,
        "resolution": entry.resolution or backbone.trunk.patch_embed.img_size[0],
        "million_parameters": round(sum(p.numel() for p in backbone.trunk.parameters() if p not in head) / 1e6, 1),
        "methods": _in_words(runs),
    }


def _in_words(runs: list[str]) -> str:
    others = [name for name in METHODS if name not in runs]
    if len(runs) < len(others):
        return " ".join(runs)
    return f"all but {' '.join(others)}" if others else "all"


def _all(cache: Path) -> Iterator[Entry]:
    for module, table in (("plugin", BACKBONES), ("medical", MEDICAL)):
        for name, backbone in table.items():
            yield Entry(name, module, None, backbone.licence, _place_of_named(backbone, cache))
    for architecture in timm.list_models():
        module = timm.model_entrypoint(architecture).__module__.rpartition(".")[2]
        for tag in tags_of(architecture) or [""]:
            name = f"{architecture}.{tag}" if tag else architecture
            cfg: Any = timm.get_pretrained_cfg(name)
            yield Entry(name, module, cfg.input_size[-1], cfg.license, _place(cfg, cache))


def _place(cfg: Any, cache: Path) -> str | None:
    """Where timm's weights are."""
    if (cache / "weights" / timm_name(cfg)).exists():
        return "cache"
    if not cfg.hf_hub_id:
        return None
    if _in_hub_cache(cfg.hf_hub_id, WEIGHT_FILES):
        return "cache"
    return "wheel" if cfg.architecture == WHEEL_BACKBONE else "hub"


def _place_of_named(backbone: NamedBackbone, cache: Path) -> str | None:
    """Where the weights of one that is not timm's are."""
    if (cache / "weights" / cache_name(backbone.name)).exists():
        return "cache"
    if backbone.hub_id is None:
        return None if backbone.source is None else "page"
    if _in_hub_cache(backbone.hub_id, WEIGHT_FILES if backbone.file is None else (backbone.file,)):
        return "cache"
    return "hub" if backbone.access is None else "gated"


def _in_hub_cache(hub_id: str, names: Iterable[str]) -> bool:
    return any(isinstance(huggingface_hub.try_to_load_from_cache(hub_id, name), str) for name in names)
