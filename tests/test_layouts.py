"""Published layouts: files made here with the names of their authors' code, and what comes out of a model loaded so."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.model import fitting
from benchmarks.model.checkpoint import read_checkpoint
from benchmarks.model.fitting import Fitted, fit

State = dict[str, Tensor]
SMALL = {"img_size": 56, "patch_size": 14, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
PARTS = {"query": 0, "key": 1, "value": 2}


def randomised(model: nn.Module) -> nn.Module:
    """In eval mode, with every number random, so that no two tensors can be confused and no scale hides a branch."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
    return model.eval()


def vit(**arguments: Any) -> nn.Module:
    return VisionTransformer(**{**SMALL, **arguments})


def eva(**arguments: Any) -> nn.Module:
    return Eva(**{**SMALL, **arguments})


def fitted(monkeypatch: pytest.MonkeyPatch, path: Path, create: Callable[[], nn.Module], **how: Any) -> Fitted:
    """The file fitted to a model of that kind, made as the table's are: on the meta device."""

    def make_native(name: str) -> nn.Module:
        with torch.device("meta"):
            return create()

    monkeypatch.setattr(fitting, "make_native", make_native)
    return fit(read_checkpoint(path), "small", **how)


def parts(tensor: Tensor) -> dict[str, Tensor]:
    width = len(tensor) // 3
    return {name: tensor[width * i : width * i + width].clone() for name, i in PARTS.items()}


def transformers_vit(state: State, mae: bool = False, dinov2: bool = False) -> State:
    """Names of transformers' ViTModel, ViTMAEModel and Dinov2Model, with and without registers, by hand."""
    theirs: State = {}
    one = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
        "reg_token": "embeddings.register_tokens",
    }  # fmt: skip
    inside = {
        "norm1": "norm1" if dinov2 else "layernorm_before", "norm2": "norm2" if dinov2 else "layernorm_after",
        "attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1" if dinov2 else "intermediate.dense",
        "mlp.fc2": "mlp.fc2" if dinov2 else "output.dense",
    }  # fmt: skip
    for name, tensor in state.items():
        _, block, rest = [*name.split(".", 2), "", ""][:3]
        layer = f"encoder.layer.{block}."
        if name in one:
            theirs[one[name]] = tensor
        elif rest.startswith("attn.qkv."):
            for part, value in parts(tensor).items():
                theirs[f"{layer}attention.attention.{part}.{rest.rpartition('.')[2]}"] = value
        elif rest.startswith("ls"):
            theirs[f"{layer}layer_scale{rest[2]}.lambda1"] = tensor
        else:
            inner, kind = rest.rpartition(".")[::2]
            theirs[f"{layer}{inside[inner]}.{kind}"] = tensor
    if mae:
        theirs = {f"vit.{name}": tensor for name, tensor in theirs.items()}
        theirs |= {"decoder.mask_token": torch.zeros(1, 1, 8), "decoder.decoder_embed.weight": torch.zeros(8, 24)}
    return theirs


def phikon(state: State) -> State:
    return {**transformers_vit(state), "pooler.dense.weight": torch.zeros(24, 24), "pooler.dense.bias": torch.zeros(24)}


def rad_dino(state: State) -> State:
    return {**transformers_vit(state, dinov2=True), "embeddings.mask_token": torch.zeros(1, 24)}


def midnight(state: State) -> State:
    """The gated MLP of its giant."""
    theirs = rad_dino(state)
    return {
        name.replace("mlp.fc1", "mlp.weights_in").replace("mlp.fc2", "mlp.weights_out"): tensor
        for name, tensor in theirs.items()
    }


def with_class_position(state: State) -> State:
    """As code whose class token has a position: timm's is the sum of the two."""
    position = torch.full((1, 1, 24), 0.25)
    positions = torch.cat([position, state["pos_embed"]], 1)
    return {**state, "cls_token": state["cls_token"] - position, "pos_embed": positions}


def hibou(state: State) -> State:
    return transformers_vit(with_class_position(state), dinov2=True)


def retfound(state: State) -> dict[str, Any]:
    """MAE's own names, beside the decoder, with the norm of the class token that its users have as `fc_norm`."""
    encoder = {name.replace("fc_norm", "norm"): tensor for name, tensor in state.items()}
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 24)}
    decoder |= {"decoder_pos_embed": torch.zeros(1, 17, 8), "decoder_blocks.0.norm1.weight": torch.zeros(8)}
    return {"model": {**encoder, **decoder}, "optimizer": {"state": {}}, "epoch": 799}


def dinov2(state: State) -> State:
    """Meta's code: registers by another name, the gated MLP by others."""
    if "reg_token" in state:
        state = with_class_position(state)
    names = {"reg_token": "register_tokens"}
    theirs = {names.get(name, name): tensor for name, tensor in state.items()} | {"mask_token": torch.zeros(1, 24)}
    if "blocks.0.mlp.fc1.weight" in theirs and theirs["blocks.0.mlp.fc1.weight"].shape[0] == 32:
        theirs = {
            name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): tensor for name, tensor in theirs.items()
        }
    return theirs


def chexfound(state: State) -> dict[str, Any]:
    """A training file of that code: teacher and student, heads, and blocks in chunks."""
    backbone = {re.sub(r"^blocks\.(\d)\.", r"blocks.0.\1.", name): value for name, value in dinov2(state).items()}
    heads = {"dino_head.mlp.0.weight": torch.zeros(4, 24), "ibot_head.last_layer.weight": torch.zeros(4, 24)}
    teacher = {f"backbone.{name}": tensor for name, tensor in backbone.items()} | heads
    return {"student": {name: tensor + 1 for name, tensor in teacher.items()}, "teacher": teacher}


def dinov3(state: State) -> State:
    """Meta's code: one bias of queries, keys and values, of which a mask takes away the keys'."""
    theirs: State = {"mask_token": torch.zeros(1, 24), "rope_embed.periods": torch.ones(6)}
    for name, tensor in state.items():
        if name.endswith("q_bias"):
            value = state[name.replace("q_bias", "v_bias")]
            theirs[name.replace("q_bias", "qkv.bias")] = torch.cat([tensor, torch.full_like(tensor, 7), value])
            theirs[name.replace("q_bias", "qkv.bias_mask")] = torch.full((72,), float("nan"))
        elif not name.endswith("v_bias"):
            theirs[re.sub(r"gamma_([12])", r"ls\1.gamma", name).replace("reg_token", "storage_tokens")] = tensor
    return theirs


def dinov3_gated(state: State) -> State:
    """Its gated MLP; without biases, as the models of timm's names have none: the file's are zero."""
    gates = {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3"}
    theirs = dinov3(state)
    for block in range(2):
        theirs[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(72)
    return {re.sub(r"mlp\.(\w+)", lambda match: f"mlp.{gates[match[1]]}", name): theirs[name] for name in theirs}


def transformers_dinov3(state: State) -> State:
    theirs: State = {"embeddings.mask_token": torch.zeros(1, 1, 24)}
    one = {"cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens"}
    inside = {
        "norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.o_proj", "mlp.fc1_g": "mlp.gate_proj",
        "mlp.fc1_x": "mlp.up_proj", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj",
    }  # fmt: skip
    for name, tensor in state.items():
        _, block, rest = [*name.split(".", 2), "", ""][:3]
        if not name.startswith("blocks."):
            theirs[one.get(name, name.replace("patch_embed.proj", "embeddings.patch_embeddings"))] = tensor
        elif rest == "attn.qkv.weight":
            for part, value in parts(tensor).items():
                theirs[f"layer.{block}.attention.{part[0]}_proj.weight"] = value
        elif rest in ("attn.q_bias", "attn.v_bias"):
            theirs[f"layer.{block}.attention.{rest[5]}_proj.bias"] = tensor
        elif rest.startswith("gamma"):
            theirs[f"layer.{block}.layer_scale{rest[-1]}.lambda1"] = tensor
        else:
            inner, kind = rest.rpartition(".")[::2]
            theirs[f"layer.{block}.{inside[inner]}.{kind}"] = tensor
    return theirs


def siglip(state: State) -> State:
    """transformers' SiglipModel: the text model beside it, one projection of the pooling."""
    theirs: State = {"embeddings.position_embedding.weight": state["pos_embed"][0]}
    theirs["head.probe"] = state["attn_pool.latent"]
    inside = {
        "norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    outside = {
        "patch_embed.proj": "embeddings.patch_embedding", "norm": "post_layernorm", "attn_pool.norm": "head.layernorm",
        "attn_pool.proj": "head.attention.out_proj", "attn_pool.mlp.fc1": "head.mlp.fc1",
        "attn_pool.mlp.fc2": "head.mlp.fc2",
    }  # fmt: skip
    for name, tensor in state.items():
        inner, kind = name.rpartition(".")[::2]
        _, block, rest = [*inner.split(".", 2), "", ""][:3]
        if rest == "attn.qkv":
            for part, value in parts(tensor).items():
                theirs[f"encoder.layers.{block}.self_attn.{part[0]}_proj.{kind}"] = value
        elif name.startswith("blocks."):
            theirs[f"encoder.layers.{block}.{inside[rest]}.{kind}"] = tensor
        elif inner in outside:
            theirs[f"{outside[inner]}.{kind}"] = tensor
        elif inner == "attn_pool.q":
            theirs[f"head.attention.in_proj_{kind}"] = torch.cat([tensor, state[f"attn_pool.kv.{kind}"]])
    theirs = {f"vision_model.{name}": tensor for name, tensor in theirs.items()}
    return theirs | {"text_model.final_layer_norm.weight": torch.ones(8), "logit_scale": torch.ones(1)}


def panderm(state: State) -> dict[str, Any]:
    """A large one as published: the model that it learned from beside it."""
    inner = {f"encoder.{name}": tensor for name, tensor in state.items()}
    other = {"mask_token": torch.zeros(1, 1, 24), "teacher.visual.class_embedding": torch.zeros(24)}
    return {**inner, **other, "encoder.mask_token": torch.zeros(1, 1, 24)}


def biomedclip(state: State) -> State:
    """open_clip around timm's trunk."""
    inner = {f"visual.trunk.{name}": tensor for name, tensor in state.items()}
    return {**inner, "visual.head.proj.weight": torch.zeros(8, 24), "text.proj.weight": torch.zeros(8, 8)}


def visionfm(state: State) -> dict[str, Any]:
    """iBOT's training file."""
    teacher = {f"backbone.{name}": tensor for name, tensor in state.items()}
    return {
        "teacher": {**teacher, "backbone.masked_embed": torch.zeros(1, 24), "head.mlp.0.weight": torch.zeros(4, 24)}
    }


def usfm(state: State) -> dict[str, Any]:
    """BEiT's names, with the constants that old code kept."""
    constants = {f"blocks.{block}.attn.relative_position_index": torch.zeros(17, 17).long() for block in range(2)}
    return {"model": {**state, **constants, "mask_token": torch.zeros(1, 1, 24)}}


def usfm_shared(state: State) -> dict[str, Any]:
    """As BEiT pretrains: one table for all blocks, and a norm that has not moved behind the pooling."""
    table = state["blocks.0.attn.relative_position_bias_table"]
    inner = {name.replace("fc_norm", "norm"): value for name, value in state.items() if "bias_table" not in name}
    return {"model": {**inner, "rel_pos_bias.relative_position_bias_table": table, "lm_head.bias": torch.zeros(9)}}


def moco(state: State) -> dict[str, Any]:
    """MoCo v3 under data parallelism: the model, and its average."""
    base = {f"module.base_encoder.{name}": tensor for name, tensor in state.items()}
    other = {name.replace("base", "momentum"): tensor + 1 for name, tensor in base.items()}
    return {"state_dict": {**base, "module.base_encoder.head.0.weight": torch.zeros(4, 24), **other}, "arch": "vit"}


def deit3(state: State) -> dict[str, Any]:
    theirs = {re.sub(r"ls([12])\.gamma", r"gamma_\1", name): tensor for name, tensor in state.items()}
    return {"model": theirs | {"head.weight": torch.zeros(4, 24), "head.bias": torch.zeros(4)}}


def twice_wrapped(state: State) -> dict[str, Any]:
    return {"model_ema": {"state_dict": {f"_orig_mod.module.backbone.{k}": t for k, t in state.items()}}, "epoch": 1}


SCALED = {"init_values": 1e-5}
REGISTERS = {"reg_tokens": 4, "no_embed_class": True, **SCALED}
GATED = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 32 / 24}
ROTARY = {
    "img_size": 64, "patch_size": 16, "use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3",
    "num_reg_tokens": 4, "use_fc_norm": False, "norm_layer": partial(nn.LayerNorm, eps=1e-5), **SCALED,
}  # fmt: skip
BEIT = {
    "patch_size": 14, "img_size": 56, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0,
    "init_values": 0.1, "use_abs_pos_emb": False, "use_rel_pos_bias": True,
}  # fmt: skip
# published layout -> (how to make the file's content, the timm model)
LAYOUTS: dict[str, tuple[Callable[[State], Any], Callable[[], nn.Module]]] = {
    "retfound": (retfound, partial(vit, global_pool="avg")),
    "retfound-token": (retfound, vit),
    "phikon": (phikon, vit),
    "mae-transformers": (partial(transformers_vit, mae=True), vit),
    "rad-dino": (rad_dino, partial(vit, **SCALED)),
    "midnight": (midnight, partial(vit, **SCALED, **GATED)),
    "hibou": (hibou, partial(vit, **REGISTERS)),
    "dinov2": (dinov2, partial(vit, **SCALED)),
    "dinov2-registers": (dinov2, partial(vit, **REGISTERS)),
    "chexfound": (chexfound, partial(vit, **REGISTERS, **GATED)),
    "dinov3": (dinov3, partial(eva, **ROTARY, qkv_bias=True)),
    "dinov3-gated": (dinov3_gated, partial(eva, **ROTARY, qkv_bias=False, swiglu_mlp=True, swiglu_align_to=8)),
    "dinov3-transformers": (transformers_dinov3, partial(eva, **ROTARY, qkv_bias=True)),
    "dinov3-transformers-gated": (
        transformers_dinov3,
        partial(eva, **ROTARY, qkv_bias=False, swiglu_mlp=True, swiglu_align_to=8),
    ),
    "medsiglip": (siglip, partial(vit, class_token=False, global_pool="map", act_layer="gelu_tanh")),
    "panderm": (panderm, partial(eva, init_values=0.1, qkv_bias=True, global_pool="token")),
    "biomedclip": (biomedclip, vit),
    "visionfm": (visionfm, vit),
    "usfm": (usfm, lambda: timm.create_model("beit_base_patch16_224", **BEIT)),
    "moco": (moco, vit),
    "deit3": (deit3, partial(vit, **SCALED, no_embed_class=True)),
    "twice-wrapped": (twice_wrapped, vit),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_comes_out_as_the_model_it_was_made_of(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, create = LAYOUTS[layout]
    torch.manual_seed(0)
    model = randomised(create())
    path = tmp_path / f"{layout}.pth"
    torch.save(publish({name: tensor.clone() for name, tensor in model.state_dict().items()}), path)
    found = fitted(monkeypatch, path, create)
    assert found.changed and found.note is not None
    expected = model.state_dict()
    assert found.state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=0, atol=1e-6)
    again = create().eval()
    again.load_state_dict(found.state)
    image = torch.rand(2, 3, 56, 56) if "dinov3" not in layout else torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = model(image)
        torch.testing.assert_close(again(image), features, rtol=1e-5, atol=1e-5)
    assert features.std() > 1e-3  # a model that says the same of every image would pass too


@pytest.mark.parametrize("layout", ["retfound", "rad-dino", "panderm", "dinov3"])
def test_what_was_fitted_needs_no_more_fitting(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, create = LAYOUTS[layout]
    torch.save(publish(randomised(create()).state_dict()), tmp_path / "published.pth")
    first = fitted(monkeypatch, tmp_path / "published.pth", create)
    save_file(first.state, tmp_path / "fitted.safetensors")
    again = fitted(monkeypatch, tmp_path / "fitted.safetensors", create)
    assert (again.changed, again.note) == (False, None)
    assert all(torch.equal(tensor, first.state[name]) for name, tensor in again.state.items())


NOTES = {
    "retfound": r"took 'model'; dropped 4 \(mask_token, decoder_embed\.weight, decoder_pos_embed, \.\.\.\); renamed 2 "
    r"\(norm\.weight, norm\.bias, \.\.\.\) to 2 \(fc_norm\.weight, fc_norm\.bias, \.\.\.\)",
    "twice-wrapped": r"took 'state_dict' of 'model_ema'; stripped 'backbone\.'",
    "moco": r"took 'state_dict'; stripped 'base_encoder\.'; dropped \d+ \(momentum_encoder\.cls_token, .*\)",
    "rad-dino": r"dropped 1 \(embeddings\.mask_token\); renamed 42 from the names of Hugging Face's ViT and DINOv2 \(",
    "medsiglip": r"stripped 'vision_model\.'; dropped 2 \(text_model\S+, logit_scale\); renamed .* Face's SigLIP",
}


@pytest.mark.parametrize("layout", NOTES)
def test_one_line_says_what_was_done(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, create = LAYOUTS[layout]
    torch.save(publish(randomised(create()).state_dict()), tmp_path / "file.pth")
    note = fitted(monkeypatch, tmp_path / "file.pth", create).note
    assert note is not None and "\n" not in note
    assert re.match(f"weights of file.pth: {NOTES[layout]}", note), note


def test_a_head_of_other_names_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose classifier is no `head`, as ResNet's `fc`."""
    create = partial(timm.create_model, "resnet10t", num_classes=7)
    model = randomised(create())
    torch.save({"state_dict": model.state_dict()}, tmp_path / "resnet.pth")
    found = fitted(monkeypatch, tmp_path / "resnet.pth", create)
    assert found.note == "weights of resnet.pth: took 'state_dict'; dropped 2 (fc.weight, fc.bias)"
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fc.")}
    assert found.state.keys() == expected.keys()
    assert all(torch.equal(found.state[name], tensor) for name, tensor in expected.items())


def test_biases_that_a_backbone_has_no_place_for_are_not_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomised(eva(**ROTARY, qkv_bias=True))
    torch.save(dinov3(model.state_dict()), tmp_path / "biased.pth")
    with pytest.raises(
        ValueError, match=r"0 missing, 4 unexpected \(blocks\.0\.attn\.q_bias, .*\); choose the backbone"
    ):
        fitted(monkeypatch, tmp_path / "biased.pth", partial(eva, **ROTARY, qkv_bias=False))


def test_biases_apart_are_joined_where_the_backbone_has_them_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomised(eva(qkv_bias=True, init_values=0.1, global_pool="token"))
    torch.save(model.state_dict(), tmp_path / "apart.pth")
    create = partial(vit, init_values=0.1)
    again = create().eval()
    again.load_state_dict(fitted(monkeypatch, tmp_path / "apart.pth", create).state)
    image = torch.rand(2, 3, 56, 56)
    with torch.no_grad():
        torch.testing.assert_close(again(image), model(image), rtol=1e-5, atol=1e-5)


def test_a_shared_table_of_position_biases_goes_into_every_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = partial(timm.create_model, "beit_base_patch16_224", **BEIT)
    model: Any = randomised(create())
    model.blocks[1].attn.relative_position_bias_table.data = model.blocks[0].attn.relative_position_bias_table.data
    torch.save(usfm_shared(model.state_dict()), tmp_path / "usfm.pth")
    again = create().eval()
    again.load_state_dict(fitted(monkeypatch, tmp_path / "usfm.pth", create).state)
    image = torch.rand(2, 3, 56, 56)
    with torch.no_grad():
        torch.testing.assert_close(again(image), model(image), rtol=1e-5, atol=1e-5)
