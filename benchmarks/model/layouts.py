"""Names of published weights, brought to timm's: prefixes, what is no part of a backbone, layouts of other code.

Each function takes a state dict and gives another; none knows a model, only the names that are expected of it.
"""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]

# What holds a backbone inside something larger, one or several behind one another.
_PREFIX = re.compile(
    r"(?:module\.|backbone\.|encoder\.|model\.|base_encoder\.|visual\.trunk\.|vision_model\.|vit\.|dinov2\.)*"
)
# Tensors that tell where a backbone begins in each layout, beside the first weight of the one that is expected.
_PATCH_EMBEDDINGS = (
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embedding.weight",
)
# Of pretraining and of tasks.
_UNUSED = re.compile(
    r"(?:embeddings\.)?mask_token|masked_embed|decoder.*|(?:dino_head|ibot_head|lm_head|pre_logits)\..*|head_dist\..*"
    r"|fc\.(?:weight|bias)|(?:classifier|pooler|text_model|projectors|teacher|regressor)\..*|logit_.*"
    r"|rope_embed(?:dings)?\..*|.*qkv\.bias_mask|local_cls_norm\..*|.*relative_position_index|.*attn_mask"
    r"|.*position_ids"
)

_VIT = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.register_tokens", "register_tokens"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_before|norm1)\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_after|norm2)\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
)
_DINOV3 = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.(\w+)", r"patch_embed.proj.\1"),
    (r"layer\.(\d+)\.attention\.q_proj\.(\w+)", r"blocks.\1.attn.query.\2"),
    (r"layer\.(\d+)\.attention\.k_proj\.(\w+)", r"blocks.\1.attn.key.\2"),
    (r"layer\.(\d+)\.attention\.v_proj\.(\w+)", r"blocks.\1.attn.value.\2"),
    (r"layer\.(\d+)\.attention\.o_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"layer\.(\d+)\.(norm[12])\.(\w+)", r"blocks.\1.\2.\3"),
    (r"layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (r"layer\.(\d+)\.mlp\.gate_proj\.(\w+)", r"blocks.\1.mlp.fc1_g.\2"),
    (r"layer\.(\d+)\.mlp\.up_proj\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layer\.(\d+)\.mlp\.down_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
)
_SIGLIP = (
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.patch_embedding\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", r"blocks.\1.attn.query.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.k_proj\.(\w+)", r"blocks.\1.attn.key.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.v_proj\.(\w+)", r"blocks.\1.attn.value.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.mlp\.(fc[12])\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    (r"post_layernorm\.(\w+)", r"norm.\1"),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.in_proj_(\w+)", r"attn_pool.in_proj.\1"),
    (r"head\.attention\.out_proj\.(\w+)", r"attn_pool.proj.\1"),
    (r"head\.layernorm\.(\w+)", r"attn_pool.norm.\1"),
    (r"head\.mlp\.(fc[12])\.(\w+)", r"attn_pool.mlp.\1.\2"),
)
# The layouts of Hugging Face transformers by a name that only they have.
_LAYOUTS = {
    "encoder.layer.0.attention.attention.query.weight": ("ViT and DINOv2", _VIT),
    "layer.0.attention.q_proj.weight": ("DINOv3", _DINOV3),
    "encoder.layers.0.self_attn.q_proj.weight": ("SigLIP", _SIGLIP),
}


def strip_prefix(state: Mapping[str, Tensor], first: str) -> tuple[State, str]:
    """The backbone inside something larger, and the prefix that its names had there.

    Args:
        state: Weights by name.
        first: Name of the first weight that is expected, such as `patch_embed.proj.weight`.
    """
    begins = {name[: -len(end)] for end in (first, *_PATCH_EMBEDDINGS) for name in state if name.endswith(end)}
    prefix = min(filter(_PREFIX.fullmatch, begins), key=len, default="")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}, prefix


def drop_unused(state: Mapping[str, Tensor], expected: Collection[str]) -> State:
    """Without the decoders, heads and constants that no backbone has; a classifier `head` stays, as in timm's files."""
    return {name: tensor for name, tensor in state.items() if name in expected or not _UNUSED.fullmatch(name)}


def from_transformers(state: Mapping[str, Tensor]) -> tuple[State, str | None]:
    """From the names of Hugging Face transformers, and which of its models has them; None where it has not."""
    layout = next((layout for name, layout in _LAYOUTS.items() if name in state), None)
    if layout is None:
        return dict(state), None
    model, table = layout
    renamed = {_renamed(name, table): tensor for name, tensor in state.items()}
    if model == "DINOv3" and "blocks.0.mlp.fc1_g.weight" in renamed:  # there `up_proj` has a gate beside it
        renamed = {name.replace(".mlp.fc1.", ".mlp.fc1_x."): tensor for name, tensor in renamed.items()}
    if model == "SigLIP":
        renamed["pos_embed"] = renamed["pos_embed"][None]  # (N, D) -> (1, N, D)
        renamed = _split_pooling(renamed)
    return _fused(renamed), f"Hugging Face's {model}"


def from_dinov2(state: Mapping[str, Tensor]) -> State:
    """From the names of DINOv2's own code, whose blocks may lie in chunks: `blocks.C.I.` with I counted through."""
    chunked = re.compile(r"blocks\.\d+\.(\d+\.)")
    renamed = {chunked.sub(r"blocks.\1", name, 1): tensor for name, tensor in state.items()}
    if any(name.endswith(".mlp.w12.weight") for name in renamed):
        gated = re.compile(r"\.mlp\.(w12|w3)\.")
        ours = {"w12": "fc1", "w3": "fc2"}
        renamed = {gated.sub(lambda m: f".mlp.{ours[m[1]]}.", name): tensor for name, tensor in renamed.items()}
    if "register_tokens" in renamed and "pos_embed" in renamed:
        # Registers have no position: timm adds that of the class token to the token itself.
        positions = renamed["pos_embed"]  # (1, 1 + N, D)
        renamed["reg_token"] = renamed.pop("register_tokens")
        renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
        renamed["pos_embed"] = positions[:, 1:]
    return renamed


def to_expected(state: Mapping[str, Tensor], expected: Collection[str]) -> State:
    """Norms, layer scales, biases and bias tables under the one of timm's names for them that is expected."""
    pairs = (
        (r"norm\.(weight|bias)", r"fc_norm.\1"),
        (r"fc_norm\.(weight|bias)", r"norm.\1"),
        (r"(blocks\.\d+)\.ls([12])\.gamma", r"\1.gamma_\2"),
        (r"(blocks\.\d+)\.gamma_([12])", r"\1.ls\2.gamma"),
    )
    renamed = {}
    for name, tensor in state.items():
        others = [match.expand(other) for pattern, other in pairs if (match := re.fullmatch(pattern, name))]
        fitting = [other for other in others if name not in expected and other in expected and other not in state]
        renamed[fitting[0] if fitting else name] = tensor
    pooled = any(name.startswith("attn_pool.") for name in expected)
    renamed = {name: tensor for name, tensor in renamed.items() if pooled or not name.startswith("attn_pool.")}
    return _biases(_tables(renamed, expected), expected)


def _tables(state: State, expected: Collection[str]) -> State:
    """One table of position biases, which BEiT's pretraining shares, in every block that has its own."""
    shared = "rel_pos_bias.relative_position_bias_table"
    own = [name for name in expected if name.endswith(".attn.relative_position_bias_table")]
    if shared not in state or not own:
        return state
    return {name: tensor for name, tensor in state.items() if name != shared} | dict.fromkeys(own, state[shared])


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name


def _fused(state: State) -> State:
    """Queries, keys and values behind one another along the outputs; biases apart where there is none of keys."""
    fused = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(.*\.attn)\.(query|key|value)\.(\w+)", name)
        if not match:
            fused[name] = tensor
        elif f"{match[1]}.key.{match[3]}" not in state:
            fused[f"{match[1]}.{match[2][0]}_{match[3]}"] = tensor  # q_bias, v_bias
        elif match[2] == "query":
            parts = [state[f"{match[1]}.{part}.{match[3]}"] for part in ("query", "key", "value")]
            fused[f"{match[1]}.qkv.{match[3]}"] = torch.cat(parts)  # (3 D, D) or (3 D,)
    return fused


def _split_pooling(state: State) -> State:
    """Queries of the pooling apart from its keys and values: (3 D, ...) -> (D, ...) and (2 D, ...)."""
    split = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"attn_pool\.in_proj\.(\w+)", name)
        if match:
            width = len(tensor) // 3
            split[f"attn_pool.q.{match[1]}"], split[f"attn_pool.kv.{match[1]}"] = tensor[:width], tensor[width:]
        else:
            split[name] = tensor
    return split


def _biases(state: State, expected: Collection[str]) -> State:
    """Biases of queries, keys and values joined or apart as expected, or left out where they are zero.

    One bias of all keys adds the same to every logit of a query, which the softmax takes away: it may go.
    """
    fitted = dict(state)
    for attention in (name.removesuffix(".qkv.weight") for name in state if name.endswith(".qkv.weight")):
        if f"{attention}.qkv.weight" not in expected:
            continue
        joined, query, value = f"{attention}.qkv.bias", f"{attention}.q_bias", f"{attention}.v_bias"
        if joined in fitted and joined not in expected:
            fitted[query], _, fitted[value] = fitted.pop(joined).chunk(3)
        elif query in fitted and value in fitted and joined in expected:
            q, v = fitted.pop(query), fitted.pop(value)
            fitted[joined] = torch.cat([q, torch.zeros_like(q), v])
        for name in (query, value):
            if name in fitted and name not in expected and not fitted[name].any():
                del fitted[name]
    return fitted
