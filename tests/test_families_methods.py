"""Every method on a small network of every family."""

import json
from typing import Any

import pytest
import torch
from small_backbones import ALL, KINDS, LIKE_LORA, NARROW, WITH_SIDE_VIT, make_parts, reason
from torch import nn

import bench
from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.model.backbone import check_needs, create_backbone, described, lacks, set_attention
from benchmarks.model.build import build_parts, check_runs, count_parameters
from benchmarks.model.choose import choose_variants
from benchmarks.model.method_config import make_config
from benchmarks.training.step import evaluation_step, make_optimization, training_step
from methods import METHODS

SIZED = ("full", "attentive_probe", "lora", "adapter", "vpt", "fpt")  # one of each way to see a network's tokens
PAIRS = [(family, method) for family in ALL for method in METHODS if method not in LIKE_LORA or family in KINDS]


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_a_method_trains_on_a_family_at_two_resolutions_or_is_refused_with_the_reason(family: str, method: str) -> None:
    """At two where a method may see a size in its own way on one kind of blocks, or a family in its own way at all.

    Each method has both on a family of each of `KINDS`, each family has both with the methods of `SIZED`.
    """
    refusal = reason(family, method)
    if refusal is not None:
        with pytest.raises(UserError, match=f"backbone must suit {method}, got .* which has .*{refusal}.*; choose"):
            check_needs(ALL[family], METHODS[method])
        return
    for factor in (4, 7) if method in SIZED or (family in KINDS and method not in LIKE_LORA) else (4,):
        parts, inputs = make_parts(family, method, factor)
        if METHODS[method].gradient_free:
            logits = evaluation_step(parts.model.eval(), inputs, "fp32", "cpu")
            assert logits.shape == (4, 3) and logits.isfinite().all() and logits.std() > 0
            continue
        before = {name: tensor.detach().clone() for name, tensor in parts.model.state_dict().items()}
        optimization = make_optimization(parts.model, 1e-2, 0.0, "fp32", "cpu")
        for _ in range(2):
            training_step(parts.model, inputs, torch.arange(4) % 3, optimization)
        logits = evaluation_step(parts.model.eval(), inputs, "fp32", "cpu")
        assert logits.shape == (4, 3) and logits.isfinite().all()
        trains = {name for name, parameter in parts.model.named_parameters() if parameter.requires_grad}
        moved = {name for name, tensor in parts.model.state_dict().items() if not torch.equal(tensor, before[name])}
        running = {name for name in moved if "running_" in name or name.endswith("num_batches_tracked")}
        assert moved - running <= trains
        norms = {name.rpartition(".")[0] for name in trains} | plain_norms(parts.model)
        assert {name.rpartition(".")[0] for name in running} <= norms  # a frozen batch norm stays as it is
        assert moved & trains == trains - unused(family, trains)


def plain_norms(model: nn.Module) -> set[str]:
    """Batch norms without weights, which are a method's own."""
    kind = nn.modules.batchnorm._BatchNorm
    return {name for name, each in model.named_modules() if isinstance(each, kind) and not each.affine}


def unused(family: str, trains: set[str]) -> set[str]:
    """What no gradient reaches: keys have no use for a bias that is the same for all of them."""
    return {name for name in trains if "k_proj.bias" in name}


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_what_trains_is_what_the_method_counts(family: str, method: str) -> None:
    if reason(family, method) is not None:
        return
    config = make_config(method, {"side_reduction": 2} if method in WITH_SIDE_VIT else NARROW.get(method, {}))
    with torch.device("meta"):
        expected = METHODS[method].count(create_backbone(ALL[family]), config)
    assert count_parameters(method, config, ALL[family], 3)["trainable"] == expected


@pytest.mark.parametrize("family", [name for name in ALL if reason(name, "lora") is None])
def test_low_rank_updates_are_heard(family: str) -> None:
    """Where timm reads a layer's weight instead of calling it, what is added to the layer would change nothing."""
    parts, inputs = make_parts(family, "lora", rank=2)
    model: Any = parts.model.eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    plain = model(**inputs)
    names = [name for name, _ in model.named_parameters() if "lora_B" in name]
    assert len(names) == len(described(ALL[family]).projections())
    for name in names:
        parameter = model.get_parameter(name)
        parameter.data.normal_()
        assert (model(**inputs) - plain).abs().max() > 1e-4, name
        parameter.data.zero_()


@pytest.mark.parametrize("family", ["dinov3", "eva02, apart", "beit", "swinv2", "convnext", "resnet50"])
@pytest.mark.parametrize("method", ["full", "lora", "adapter", "vpt"])
def test_gradient_checkpointing_and_eager_attention_change_no_gradient(family: str, method: str) -> None:
    if reason(family, method) is not None:
        return
    gradients = []
    for checkpointing, attention in ((False, "sdpa"), (True, "sdpa"), (False, "eager")):
        parts, inputs = make_parts(family, method)
        parts.model.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
        set_attention(parts.model, attention)  # type: ignore[arg-type]
        parts.model.eval()  # batch norms that train would count a batch twice
        nn.functional.cross_entropy(parts.model(**inputs), torch.arange(4) % 3).backward()
        gradients.append([parameter.grad for parameter in parts.model.parameters() if parameter.grad is not None])
    for others in gradients[1:]:
        for plain, other in zip(gradients[0], others, strict=True):
            torch.testing.assert_close(other, plain, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "family", ["dinov3", "eva02, apart", "perception encoder", "beit", "swinv2", "convnext", "resnet50"]
)
def test_memory_is_predicted(family: str) -> None:
    """Parameters, gradients and AdamW's state of full fine-tuning at least; more at a higher resolution."""
    stride = described(ALL[family]).stride
    peaks = []
    for factor in (4, 8):
        phases = predict_memory(MemoryPoint("full", factor * stride, 4, ALL[family])).phases
        peaks.append(phases["train"].allocated)
    assert 16 * count_parameters("full", make_config("full", {}), ALL[family], 5)["trainable"] < peaks[0] < peaks[1]


@pytest.mark.parametrize("method", ["full", "linear"])
def test_a_size_that_a_network_cannot_take_is_refused_before_a_run(method: str) -> None:
    """Halo attention wants maps of whole blocks."""
    config = make_config(method, {})
    check_runs(METHODS[method], config, "halonet26t", 256)
    with pytest.raises(UserError, match=r"backbone must take images of 224 px, got 'halonet26t' \(.*\); choose"):
        check_runs(METHODS[method], config, "halonet26t", 224)


def test_a_network_without_checkpoints_is_refused_them() -> None:
    config = make_config("full", {})
    with pytest.raises(
        UserError, match="grad checkpointing must be off on a backbone that has none, got 'cspdarknet53'"
    ):
        build_parts("full", config, "cspdarknet53", 3, 64, grad_checkpointing=True)


def test_another_network_of_timm_gives_its_features() -> None:
    name = "regnety_002"
    assert described(name).family == "other"
    assert lacks(name, METHODS["lora"]) == ["no description of networks like it (RegNet)"]
    for method in ("full", "linear"):
        model = build_parts(method, make_config(method, {}), name, 3, 64)
        assert model.model.head.in_features == described(name).num_features  # type: ignore[union-attr]
    torch.manual_seed(0)
    backbone = create_backbone(name, 64).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = backbone.trunk(image)
        torch.testing.assert_close(backbone.trunk.head.fc(backbone(image)), logits, rtol=1e-5, atol=1e-5)


def test_all_means_those_that_a_backbone_can_have(capsys: pytest.CaptureFixture[str]) -> None:
    """A note names the others and why; one that is asked for by name is refused."""
    chosen, notes = choose_variants(["all"], (), "resnet18")
    methods = [variant.name for variant in chosen]
    assert methods == [name for name in METHODS if not lacks("resnet18", METHODS[name])]
    assert {"full", "linear", "lora"} <= set(methods) and not {"vpt", "fpt", "adapter"} & set(methods)
    (note,) = notes
    assert note.startswith("all methods but these run on resnet18: vpt, vpt_shallow, fpt, fpt_plus")
    assert "as it has no token sequence; " in note
    (vpt,), notes = choose_variants(["vpt"], (), "resnet18")
    assert (vpt.name, notes) == ("vpt", [])  # refused by `check_needs`
    chosen, notes = choose_variants(["all"], (), ALL["augreg"])
    assert [variant.method for variant in chosen] == list(METHODS) and not notes
    assert bench.main(["params", "--methods", "all", "--backbone", "resnet18", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert [row["method"] for row in json.loads(out)] == methods and f"note: {note}" in err
