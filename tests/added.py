"""What the tests of methods that add something to a backbone's blocks share."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.build import build_parts, count_parameters
from benchmarks.model.method_config import make_config

NUM_CLASSES = 3
SIDE = 56
# Width and depth; the second has registers, another patch size and layer scale.
TINY, SMALL = "vit_tiny_patch16_224[depth=3]", "vit_small_patch14_reg4_dinov2[depth=4]"
SIZES = {TINY: (192, 3), SMALL: (384, 4)}


def make(method: str, backbone: str = TINY, side: int = SIDE, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_parts(method, make_config(method, options), backbone, NUM_CLASSES, side).model


def awake(model: Any, spread: float = 0.1) -> Any:
    """Moves what trains off its start, where much of it would do nothing, and layer scales too; in eval mode."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or name.endswith(("ls1.gamma", "ls2.gamma", "ls1.0.gamma", "ls2.0.gamma")):
            parameter.data += spread * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def tokens_of(vit: Any, image: Tensor) -> Tensor:
    """Those that the first block gets."""
    return vit.norm_pre(vit._pos_embed(vit.patch_embed(image)))


def attention(block: Any, x: Tensor) -> Tensor:
    """A block's attention by its formula, head by head, from the normed input."""
    attn = block.attn
    query, key, value = F.linear(x, attn.qkv.weight, attn.qkv.bias).chunk(3, dim=-1)
    heads = []
    for each in range(attn.num_heads):
        q, k, v = (part[..., each * attn.head_dim : (each + 1) * attn.head_dim] for part in (query, key, value))
        heads.append((q @ k.mT / attn.head_dim**0.5).softmax(dim=-1) @ v)
    return F.linear(torch.cat(heads, dim=-1), attn.proj.weight, attn.proj.bias)


def mlp(layer: Any, x: Tensor) -> Tensor:
    """timm's MLP by its formula."""
    return F.linear(F.gelu(F.linear(x, layer.fc1.weight, layer.fc1.bias)), layer.fc2.weight, layer.fc2.bias)


def count(method: str, backbone: str, **options: Any) -> float:
    return count_parameters(method, make_config(method, options), backbone, NUM_CLASSES)["trainable"]


def activations(predicted: dict[str, int]) -> int:
    return sum(size for name, size in predicted.items() if name.startswith("activations"))


def check_memory(method: str, more_than_full: bool = False) -> None:
    """States of the optimiser are two numbers a trainable one, and weights all that the model has.

    Against full fine-tuning: what training and use need beside it.
    """

    def predicted(name: str) -> Any:
        backbone = "vit_tiny_patch16_224[depth=3]"
        phases = predict_memory(MemoryPoint(name, 224, 16, backbone, NUM_CLASSES)).phases
        assert list(phases) == ["setup", "train", "eval"]
        return phases, count_parameters(name, make_config(name, {}), backbone, NUM_CLASSES)

    (phases, counts), (full, full_counts) = predicted(method), predicted("full")
    states, tensors = phases["train"].breakdown["optimizer_state"], 400
    assert 8 * counts["trainable_total"] <= states <= 8 * counts["trainable_total"] + 2 * 512 * tensors
    weights = phases["train"].breakdown["parameters"]
    added = 4 * (counts["trainable_total"] + counts["frozen"] - full_counts["trainable_total"])
    assert weights == phases["eval"].breakdown["parameters"]
    assert weights - full["train"].breakdown["parameters"] == pytest.approx(added, abs=512 * tensors)
    kept, full_kept = activations(phases["train"].breakdown), activations(full["train"].breakdown)
    assert (kept > full_kept) == more_than_full and kept > 0
    assert activations(phases["eval"].breakdown) < kept
