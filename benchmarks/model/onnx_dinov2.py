"""Reads a DINOv2 ViT out of an ONNX graph that was exported from Hugging Face transformers, under timm's key names.

The export keeps the names of norms, biases, layer scales and patch embedding (under `backbone.`). Each linear weight
has become an anonymous, transposed initialiser; it is known by the graph alone: it feeds the MatMul whose output is
added to the bias of that name. The position embedding has become an anonymous pair: class token and patch grid.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

PREFIX = "backbone."

# (Hugging Face name without prefix, timm name); q, k and v are fused afterwards
_NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
    (r"encoder\.layer\.(\d+)\.(norm[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)", r"blocks.\1.attn.\2.\3"),
)


def read_dinov2(path: Path) -> dict[str, Tensor]:
    """The backbone's state dict under timm's key names, in float32.

    Raises:
        ValueError: The graph does not have the structure described at the top of this file.
    """
    return dinov2_state_dict(onnx.load(path))


def dinov2_state_dict(model: onnx.ModelProto) -> dict[str, Tensor]:
    """As `read_dinov2`, from a graph in memory."""
    arrays = {init.name: numpy_helper.to_array(init) for init in model.graph.initializer}
    named = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    named |= _linear_weights(model.graph, arrays)
    state = {_timm_name(name): torch.from_numpy(array.astype(np.float32)) for name, array in named.items()}
    state["pos_embed"] = _pos_embed(arrays)
    return _fuse_qkv(state)


def _linear_weights(
    graph: onnx.GraphProto, arrays: dict[str, npt.NDArray[np.float32]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Weights of the linear layers, (out, in), under their Hugging Face names without prefix."""
    matmul_weight = {
        node.output[0]: name for node in graph.node if node.op_type == "MatMul" for name in node.input if name in arrays
    }
    weights = {}
    for node in graph.node:
        biases = [name for name in node.input if name.startswith(PREFIX) and name.endswith(".bias") and name in arrays]
        products = [matmul_weight[name] for name in node.input if name in matmul_weight]
        if node.op_type == "Add" and biases and products:
            weights[biases[0].removeprefix(PREFIX).removesuffix("bias") + "weight"] = arrays[products[0]].T
    return weights


def _pos_embed(arrays: dict[str, npt.NDArray[np.float32]]) -> Tensor:
    """The anonymous pair (1, 1, D) and (1, N - 1, D), joined: (1, N, D)."""
    pair = [array for name, array in arrays.items() if array.ndim == 3 and not name.startswith(PREFIX)]
    pair.sort(key=lambda array: array.shape[1])
    if len(pair) != 2 or pair[0].shape[:2] != (1, 1) or pair[1].shape[::2] != pair[0].shape[::2]:
        shapes = [array.shape for array in pair]
        raise ValueError(f"position embedding must be one anonymous pair (1, 1, D), (1, N, D), got shapes {shapes!r}")
    return torch.from_numpy(np.concatenate(pair, axis=1).astype(np.float32))


def _timm_name(name: str) -> str:
    for pattern, replacement in _NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    raise ValueError(f"initialiser must belong to a DINOv2 ViT, got {PREFIX + name!r}")


def _fuse_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joins `attn.query`, `attn.key` and `attn.value` into timm's `attn.qkv`, in that order, along the outputs."""
    fused = {name: tensor for name, tensor in state.items() if not re.search(r"attn\.(query|key|value)\.", name)}
    for name in state:
        if ".attn.query." in name:
            parts = [state[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            fused[name.replace(".query.", ".qkv.")] = torch.cat(parts)
    return fused
