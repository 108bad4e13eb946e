"""What saves memory with any method: the same losses where that must be, what is predicted, recorded and labelled."""

import copy
import json
import math
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from bench_process import TINY
from fixed_records import make_record
from inside import finish_inside
from small_backbones import NARROW, SMALL
from tiny_images import make_images
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.analysis.summary import summary
from benchmarks.config import NO_SAVERS, SAVER_WORDS, Optimizer, Precision, Savers
from benchmarks.errors import UserError
from benchmarks.memory.phases import synthetic_images
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.memory.savers import SAVERS
from benchmarks.model.build import Parts, build_parts
from benchmarks.model.choose import choose_variants
from benchmarks.model.method_config import make_config
from benchmarks.records.frame import runs_frame
from benchmarks.report.captions import protocol
from benchmarks.report.missing_runs import seed_commands
from benchmarks.speed.savers import main as speed_savers
from benchmarks.speed.savers import table
from benchmarks.training import optimizers
from benchmarks.training.frozen import save_weights
from benchmarks.training.optimizers import make_optimizer, state_bytes
from benchmarks.training.savers import check_savers, starts_from_data
from benchmarks.training.step import GivenBatches, Optimization, extraction_step, make_optimization, training_step
from methods import METHODS
from methods.contract import IMAGE, Recipe

BACKBONE = f"vit_tiny_patch16_224[{SMALL}]"
TRAINED = [name for name, method in METHODS.items() if not method.gradient_free]
FROM_DATA = ("eva", "lora_ga")
OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "adamw8bit", "sgd", "lion")


def made(method: str, savers: Savers = NO_SAVERS) -> Parts:
    """A method on a small backbone, from one seed."""
    torch.manual_seed(0)
    options = NARROW.get(method, {}) | ({"side_reduction": 4} if method in ("fpt", "fpt_plus") else {})
    parts = build_parts(method, make_config(method, options), BACKBONE, 3, 64)
    save_weights(parts, savers)
    parts.model.set_grad_checkpointing(savers.recompute == "cheap")  # type: ignore[operator]
    return parts


def optimization_of(method: str, parts: Parts, savers: Savers, precision: Precision) -> Optimization:
    recipe = METHODS[method].recipe(parts.model, make_config(method, {}), 3)
    return make_optimization(parts.model, 1e-3, 0.01, precision, "cpu", recipe, savers=savers)


def losses(method: str, savers: Savers, precision: Precision = "fp32", steps: int = 3) -> tuple[list[float], Any]:
    """Of some steps on one batch, and the model that they led to."""
    parts = made(method, savers)
    torch.manual_seed(1)
    point = MemoryPoint(method, 64, 4)
    inputs, labels = synthetic_images(point, torch.device("cpu")), torch.tensor([0, 1, 2, 0])
    if parts.extractor is not None:
        inputs |= extraction_step(parts.extractor, inputs.pop(IMAGE), precision, "cpu")
    optimization = optimization_of(method, parts, savers, precision)
    if optimization.recipe.prepare is not None:
        optimization.recipe.prepare(parts.model, GivenBatches([(inputs, labels)]))
        optimization.regroup(parts.model)
    return [training_step(parts.model, inputs, labels, optimization).item() for _ in range(steps)], parts.model


# 1. Activations on the host.


@pytest.mark.parametrize("method", TRAINED)
def test_offloaded_activations_leave_losses_and_weights_as_they_are(method: str) -> None:
    plain, model = losses(method, NO_SAVERS)
    offloaded, other = losses(method, Savers(offload="activations"))
    assert offloaded == plain
    assert all(torch.equal(first, other.state_dict()[name]) for name, first in model.state_dict().items())


@pytest.mark.parametrize("method", ["full", "lora", "fpt", "fpt_plus"])
def test_offloaded_activations_leave_losses_in_bf16_as_they_are(method: str) -> None:
    assert losses(method, Savers(offload="activations"), "bf16")[0] == losses(method, NO_SAVERS, "bf16")[0]


def saved_bytes(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    """What autograd keeps of a real forward pass besides weights and inputs, each storage once."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *inputs.values())}
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs)
    return sum(sizes.values())


def test_what_offloading_is_predicted_to_save_is_what_autograd_keeps() -> None:
    """Of a network whose activations are nearly all that it takes, counted on real tensors."""
    point = MemoryPoint("full", 224, 16, f"vit_tiny_patch16_224[{SMALL}]", attention="eager")
    predicted = {
        name: predict_memory(point_with(point, offload=name)).phases["train"] for name in SAVER_WORDS["offload"]
    }
    plain = predict_memory(point).phases["train"]
    model = build_parts("full", make_config("full", {}), point.backbone, 5, 224, "eager").model
    kept = saved_bytes(model, synthetic_images(point, torch.device("cpu")))
    saved = plain.allocated - predicted["activations"].allocated
    in_use = 3 * 16 * 3 * 197**2 * 4  # attention scores of a layer: their gradient, product and themselves
    assert kept - in_use <= saved <= kept


def point_with(point: MemoryPoint, **savers: Any) -> MemoryPoint:
    return MemoryPoint(**point.as_dict() | savers)


def test_features_of_a_prediction_are_not_offloaded_activations() -> None:
    point = MemoryPoint("fpt", 64, 2, BACKBONE, options=(("side_reduction", 4), ("side_resolution", 32)))
    plain, offloaded = (predict_memory(point_with(point, offload=name)) for name in ("none", "activations"))
    assert plain.feature_bytes == offloaded.feature_bytes > 0


# 2. Optimisers.


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_of_a_real_optimizer_is_what_the_formula_says(name: Optimizer) -> None:
    parameters = [nn.Parameter(torch.randn(shape)) for shape in [(100, 50), (64, 64), (3,), (63, 65), (1, 4095)]]
    optimizer = make_optimizer(name, [{"params": parameters}], 1e-3, 0.1)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for state in optimizer.state_dict()["state"].values()
        for value in flat(state)
    }
    assert sum(storages.values()) == state_bytes(name, [parameter.numel() for parameter in parameters])


def flat(state: Any) -> list[Tensor]:
    """Tensors of a state: bitsandbytes puts its own a level deeper."""
    if isinstance(state, Tensor):
        return [state]
    return [tensor for value in state.values() for tensor in flat(value)] if isinstance(state, dict) else []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_predicted_state_is_the_formula_up_to_the_allocators_rounding(name: Optimizer) -> None:
    point = MemoryPoint("full", 32, 1, "vit_tiny_patch16_224[depth=2]", optimizer=name)
    model = build_parts("full", make_config("full", {}), point.backbone, 5, 32).model
    sizes = [parameter.numel() for parameter in model.parameters()]
    predicted = predict_memory(point).phases["train"].breakdown["optimizer_state"]
    assert 0 <= predicted - state_bytes(name, sizes) < 4 * 512 * len(sizes)


def test_each_optimizer_is_that_of_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against its update by hand, in the first step, where each has a closed form."""
    start, gradient, lr, decay = torch.full((64, 64), 2.0), torch.linspace(-1, 1, 4096).view(64, 64), 0.1, 0.5
    decoupled = start * (1 - lr * decay)
    expected = {
        "adamw": decoupled - lr * gradient.sign(),
        "adamw8bit": decoupled - lr * gradient.sign(),
        "lion": decoupled - lr * gradient.sign(),
        "sgd": start - lr * (gradient + decay * start),
    }
    for name in OPTIMIZERS:
        parameter = nn.Parameter(start.clone())
        parameter.grad = gradient.clone()
        make_optimizer(name, [{"params": [parameter]}], lr, decay).step()
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=0, atol=1e-4, msg=name)


def test_8_bits_train_about_as_32_do() -> None:
    eight, full = (losses("lora", Savers(optimizer=name), steps=5)[0] for name in OPTIMIZERS[1::-1])
    assert eight[0] == full[0] or full != eight
    assert all(math.isclose(first, second, rel_tol=0.02) for first, second in zip(eight, full, strict=True))
    assert full[-1] < full[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_goes_through_a_checkpoint(name: Optimizer) -> None:
    """Two steps and two more give what four steps do."""

    def stepped(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            parameter.grad = torch.full_like(parameter, 1.0 + step)
            optimizer.step()

    whole, first = (nn.Parameter(torch.linspace(-1, 1, 5000)) for _ in range(2))
    stepped(whole, make_optimizer(name, [{"params": [whole]}], 0.1, 0.1), range(4))
    before = make_optimizer(name, [{"params": [first]}], 0.1, 0.1)
    stepped(first, before, range(2))
    state = copy.deepcopy(before.state_dict())
    second = nn.Parameter(first.detach().clone())
    after = make_optimizer(name, [{"params": [second]}], 0.1, 0.1)
    after.load_state_dict(state)
    stepped(second, after, range(2, 4))
    assert torch.equal(second, whole)


def test_a_method_with_its_own_optimizer_refuses_another() -> None:
    model = nn.Linear(2, 2)
    recipe = Recipe(optimizer=lambda groups: torch.optim.SGD(groups))
    with pytest.raises(UserError, match="optimizer must be left out with a method that brings its own, got 'lion'"):
        make_optimization(model, 0.1, 0.1, "fp32", "cpu", recipe, savers=Savers(optimizer="lion"))


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"optimizer adamw8bit must have the library bitsandbytes, got none .* pip"):
        optimizers.check_optimizer("adamw8bit")


# 3. Frozen weights in bf16.


@pytest.mark.parametrize("method", [name for name in TRAINED if name not in FROM_DATA])
def test_every_method_trains_on_frozen_weights_in_bf16(method: str) -> None:
    saved, model = losses(method, Savers(frozen_weights="bf16"), "bf16")
    assert all(math.isfinite(loss) for loss in saved)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}


def test_methods_that_start_from_data_are_those_refused() -> None:
    variants, _ = choose_variants(TRAINED, (), "vit_tiny_patch16_224")
    assert {variant.method for variant in variants if starts_from_data(variant, "vit_tiny_patch16_224")} == set(
        FROM_DATA
    )
    (eva,) = choose_variants(["eva"], (), BACKBONE)[0]
    with pytest.raises(UserError, match="frozen weights must lie in fp32 for eva, which starts from data"):
        check_savers(vars(Savers(frozen_weights="bf16")), ["bf16"], [eva], BACKBONE)


@pytest.mark.parametrize("method", ["bitfit", "adapter", "lora", "vpt"])
def test_losses_of_cast_weights_are_those_of_autocast(method: str) -> None:
    assert losses(method, Savers(frozen_weights="bf16"), "bf16")[0] == losses(method, NO_SAVERS, "bf16")[0]


def test_predicted_parameters_are_those_of_the_cast_model() -> None:
    point = MemoryPoint("lora", 64, 1, "vit_tiny_patch16_224[depth=2]", precision="bf16", frozen_weights="bf16")
    parts = build_parts("lora", make_config("lora", {}), point.backbone, 5, 64)
    model = parts.model
    plain = sum(parameter.nbytes for parameter in model.parameters())
    save_weights(parts, point)
    cast = sum(parameter.nbytes for parameter in model.parameters())
    predicted = predict_memory(point).phases["setup"].breakdown["parameters"]
    assert cast < 0.6 * plain and 0 <= predicted - cast < 512 * len(list(model.parameters()))


def test_weights_that_train_later_are_not_cast() -> None:
    parts = made("lora", Savers(frozen_weights="bf16"))
    optimization = optimization_of("lora", parts, NO_SAVERS, "bf16")
    parts.model.requires_grad_(True)
    with pytest.raises(UserError, match="frozen weights must lie in fp32 with a method that trains some of them later"):
        optimization.regroup(parts.model)


# 4. On the command line, in records and in tables.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frozen-weights", "bf16"], "frozen weights in bf16 must have precision bf16, got 'fp32'"),
        (["--optimizer", "adam"], "optimizer must be one of adamw, adamw8bit, sgd, lion, got 'adam'"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    make_images(tmp_path / "images")
    ended = finish_inside(tmp_path, "--methods", "lora", *TINY, *arguments)
    assert ended.returncode == 2 and message in ended.stderr
    assert not list(tmp_path.glob("results/runs/*.json"))


@pytest.mark.parametrize("command", ["memory", "fit"])
def test_memory_and_fit_refuse_it_too(tmp_path: Path, command: str) -> None:
    ended = finish_inside(tmp_path, command, "--methods", "lora", "--precision", "fp32", "--frozen-weights", "bf16")
    assert ended.returncode == 2 and "must have precision bf16, got 'fp32'" in ended.stderr


def test_a_run_records_what_it_saved_by_and_its_model_is_kept(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    savers = ["--offload", "activations", "--optimizer", "adamw8bit", "--frozen-weights", "bf16"]
    options = ["--methods", "lora", "linear", "simpleshot", *TINY, "--epochs", "1", "--precision", "bf16"]
    for more in ([], savers, ["--recompute", "cheap"]):
        ended = finish_inside(tmp_path, *options, *more)
        assert ended.returncode == 0, ended.stderr
    stored = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*.json")]
    assert len(stored) == 7  # nothing trains in SimpleShot, which is the same run
    table = summary(runs_frame(stored))
    labels = set(table["label"])
    assert {"LoRA", "LoRA (offloaded, 8-bit AdamW, bf16 weights)", "LoRA (selective checkpointing)"} <= labels
    kept, again = (
        next(
            record["measurements"] for record in stored if is_lora(record) and record["run"]["config"].items() >= is_of
        )
        for is_of in ({"recompute": "none", "offload": "none"}.items(), {"recompute": "cheap"}.items())
    )
    assert [epoch["loss"] for epoch in again["history"]] == [epoch["loss"] for epoch in kept["history"]]
    assert again["test"]["auc"] == kept["test"]["auc"]
    (saved,) = (record for record in stored if record["run"]["config"]["frozen_weights"] == "bf16" and is_lora(record))
    evaluated = finish_inside(tmp_path, "evaluate", saved["run_id"], "--data", "images", "--device", "cpu")
    assert evaluated.returncode == 0, evaluated.stderr


def is_lora(record: Any) -> bool:
    return bool(record["run"]["config"]["method"] == "lora")


def frame_of(*savers: dict[str, Any]) -> pd.DataFrame:
    """Runs of LoRA with different savers."""
    return runs_frame(make_record("lora", config=one, tag=str(number)) for number, one in enumerate(savers))


def test_what_changes_numbers_is_a_protocol_of_its_own_and_all_is_in_the_label() -> None:
    table = summary(
        frame_of({}, {"offload": "activations"}, {"optimizer": "sgd"}, {"frozen_weights": "bf16"}, {"quantize": "nf4"})
    )
    by_label = dict(zip(table["label"], table["block"], strict=True))
    assert sorted(by_label) == [
        "LoRA", "LoRA (NF4 weights)", "LoRA (SGD)", "LoRA (bf16 weights)", "LoRA (offloaded)",
    ]  # fmt: skip
    assert by_label["LoRA"] == by_label["LoRA (offloaded)"]
    assert len(set(by_label.values())) == 4
    for words, flags in {"SGD": "--optimizer sgd", "NF4 weights": "--quantize nf4"}.items():
        row = table[table["label"] == f"LoRA ({words})"]
        (command,) = seed_commands(row, 2)
        assert command.count(flags) == 1
        assert f", {words}" in protocol(row) and words not in protocol(table[table["label"] == "LoRA"])


def test_a_run_stored_before_is_the_run_without() -> None:
    before, now = frame_of({}), frame_of(vars(NO_SAVERS))
    pd.testing.assert_frame_equal(before, now)


def test_check_accepts_what_goes_together() -> None:
    check_savers(vars(Savers(offload="activations", optimizer="lion", frozen_weights="bf16")), ["bf16"], [], BACKBONE)
    check_savers(vars(NO_SAVERS), ["fp32", "bf16"], [], BACKBONE)


def test_the_table_of_savers_holds_predictions(tmp_path: Path) -> None:
    backbone = "vit_tiny_patch16_224[depth=2]"
    (row,) = table(["lora"], [64], backbone, tmp_path).to_dict("records")
    assert (row["method"], row["px"]) == ("lora", 64)
    for name, chosen in SAVERS.items():
        made = predict_memory(MemoryPoint("lora", 64, 16, backbone, precision="bf16", attention="sdpa", **chosen))
        sizes = [peak.allocated / 2**20 for peak in (made.highest, made.phases["train"])]
        assert row[name] == "{:,.0f} ({:,.0f})".format(*sizes)


def test_steps_are_timed_with_each_saver_that_a_method_can_have(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--timed", "--methods", "full", "lora", "--res", "64", "--batch-size", "2", "--backbone", BACKBONE]
    assert speed_savers([*words, "--rounds", "1", "--format", "csv"]) == 0
    full, lora = pd.read_csv(StringIO(capsys.readouterr().out)).to_dict("records")
    fp32 = {name for name, chosen in SAVERS.items() if "frozen_weights" not in chosen}
    timed = {row["method"]: {name for name in SAVERS if row.get(name, math.nan) > 0} for row in (full, lora)}
    assert timed == {"full": {name for name in fp32 if "quantize" not in SAVERS[name]}, "lora": fp32}


# 5. Selective checkpointing.


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora", "vpt", "adapter", "fpt", "fpt_plus", "dtl", "side_tuning"])
def test_selective_checkpointing_leaves_losses_and_weights_as_they_are(method: str, precision: Precision) -> None:
    plain, model = losses(method, NO_SAVERS, precision)
    selective, other = losses(method, Savers(recompute="cheap"), precision)
    assert selective == plain
    assert all(torch.equal(first, other.state_dict()[name]) for name, first in model.state_dict().items())


def test_selective_checkpointing_computes_what_is_wide_and_cheap_again() -> None:
    """Against the operators of a step without it, and with all of a block computed again."""

    class Counted(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.operators: Counter[str] = Counter()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.operators[str(func)] += 1
            return func(*args, **(kwargs or {}))

    def counts(savers: Savers, checkpointing: bool) -> Counter[str]:
        parts = made("full", savers)
        parts.model.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
        inputs = synthetic_images(MemoryPoint("full", 64, 2), torch.device("cpu"))
        optimization = optimization_of("full", parts, savers, "fp32")
        with Counted() as counted:
            training_step(parts.model, inputs, torch.tensor([0, 1]), optimization)
        return counted.operators

    plain, whole = (counts(NO_SAVERS, checkpointing) for checkpointing in (False, True))
    selective = counts(Savers(recompute="cheap"), checkpointing=True)
    product, norm = "aten.addmm.default", "aten.native_layer_norm.default"
    wide = 2  # the inner layer of each block's MLP
    assert plain[product] + wide == selective[product] < whole[product]
    assert plain[norm] < selective[norm] == whole[norm]


@pytest.mark.parametrize("method", ["full", "lora", "vpt", "adapter"])
def test_selective_checkpointing_is_predicted_between_none_and_all(method: str) -> None:
    backbone = "vit_tiny_patch16_224[depth=8,embed_dim=48,num_heads=3]"
    point = MemoryPoint(method, 224, 16, backbone, attention="sdpa")
    changes: list[dict[str, Any]] = [{}, {"recompute": "cheap"}, {"grad_checkpointing": True}]
    plain, selective, whole = (
        predict_memory(MemoryPoint(**point.as_dict() | change)).phases["train"].allocated for change in changes
    )
    assert whole < selective < plain


@pytest.mark.parametrize(
    "others", [{"grad_checkpointing": True}, {"offload": "activations"}, {"compile": "default"}], ids=str
)
def test_selective_checkpointing_goes_alone(others: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"{next(iter(others))} must be left out with recompute cheap"):
        check_savers(vars(Savers(recompute="cheap")) | others, ["bf16"], [], BACKBONE)
