"""Operators of a training step and waits of an epoch, against what is counted by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from small_backbones import SMALL
from torch import Tensor, nn

from benchmarks.config import Precision
from benchmarks.memory.point import MemoryPoint
from benchmarks.model.build import Parts
from benchmarks.speed import launches
from benchmarks.speed.launches import step_operators
from benchmarks.speed.waits import GPU, Waits, epoch_waits


class Toy(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3 * 32 * 32, 8), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.second(self.first(image.flatten(1)).relu())


FORWARD = 2 + 1 + 2  # addmm; relu; log-softmax and the loss
BACKWARD = 1 + 2 + 3 + 1 + 2  # ones; loss; two products and a sum; relu; a product and a sum, the image needs none
CLIPPING = 7 + 1  # norms, their stack, its norm, + 1e-6, 1 /, times 1, at most 1; times the gradients
ADAMW = 2 * 2  # of weights and of biases: counts of steps, and the update
CASTS = 5 + 1 + 1 + 4  # input, weights and biases; logits to fp32, their gradient from it; gradients of parameters


@pytest.mark.parametrize(("precision", "casts"), [("fp32", 0), ("bf16", CASTS)])
def test_operators_of_a_toy_are_those_counted_by_hand(precision: Precision, casts: int) -> None:
    point = MemoryPoint("full", 32, 2, "vit_tiny_patch16_224", precision=precision)
    counted = step_operators(point, lambda point: Parts(Toy(), None))
    assert counted.total() == FORWARD + BACKWARD + CLIPPING + ADAMW + casts
    assert counted["aten.addmm"] == 2 and counted["aten.mm"] == 3 and counted["aten._fused_adamw_"] == 2


def test_work_in_parts_is_counted_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions skip parts that repeat; here each counts."""
    point = MemoryPoint("fpt", 64, 4, "vit_tiny_patch16_224", preload=False, options=(("layers", "0"),))
    few = step_operators(point).total()
    monkeypatch.setattr("methods.side.fpt_parts.lean_extraction.MAX_SCORES", 17 * 17)  # a head at a time
    many = step_operators(point).total()
    assert many - few == 7 * (4 * 3 - 1)  # operators of a part; heads of all images, instead of one part


def on_gpu(*shape: int) -> Tensor:
    return torch.zeros(*shape, device=GPU)


WAITING: dict[str, Any] = {
    "item": lambda: on_gpu(1).item(),
    "__bool__": lambda: bool(on_gpu(1) > 0),
    "cpu": lambda: on_gpu(2).cpu(),
    "to": lambda: torch.zeros(2).to(GPU),
    "tensor": lambda: torch.tensor([1.0], device=GPU),
    "new_tensor": lambda: on_gpu(2).new_tensor([1.0]),
    "copy_": lambda: torch.zeros(2).copy_(on_gpu(2)),
    "__getitem__": lambda: on_gpu(2)[on_gpu(2) > 0],
    "nonzero": lambda: (on_gpu(3) * 2).nonzero(),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_reads_or_copies_a_value_waits(name: str) -> None:
    waits = Waits()
    with waits:
        WAITING[name]()
    assert waits.counts == {name: 1}


def test_what_stays_on_one_side_or_need_not_wait_does_not() -> None:
    waits = Waits()
    with waits:
        host = torch.from_numpy(np.zeros(3))
        assert host.sum().item() == 0 and host.device.type == "cpu" and host.is_cpu
        there = host.to(GPU, non_blocking=True)
        assert there.device == GPU and there.is_cuda and not there.is_cpu
        (there * 2 + there.sum()).to("cpu", non_blocking=True).tolist()
        copied = there.new_empty(3).copy_(there)
        assert host.device.type == "cpu" and copied.device == GPU
    assert waits.counts == {}


def test_gradients_lie_on_the_gpu() -> None:
    weight = nn.Parameter(torch.ones(2))
    waits = Waits()
    with waits:
        (weight * 2).sum().backward()
        assert weight.grad is not None and weight.grad.norm().item() > 0
    assert waits.counts == {"item": 1}


def test_the_command_prints_a_row_for_each_method_and_precision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launches, "SIDE", 64)
    monkeypatch.setattr(launches, "DEFAULT_BACKBONE", f"vit_tiny_patch16_224[{SMALL}]")
    monkeypatch.setattr(launches, "epoch_synchronisations", lambda method: 7)
    assert launches.main(["--methods", "lora", "linear", "--precision", "fp32", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    head, lora, linear = out.strip().splitlines()
    assert head == "method,precision,operators,synchronisations,peak_allocated_bytes"
    assert lora.startswith("lora,fp32,86,7,") and linear.startswith("linear,fp32,")
    assert "kernels and milliseconds are left out: there is no GPU here" in err


@pytest.mark.parametrize("method", ["fpt", "lora", "linear"])
def test_an_epoch_waits_for_its_loss_its_logits_its_weights_and_its_two_phases(method: str) -> None:
    """Not once more, however many steps it has."""
    assert epoch_waits(method) == {"item": 1, "cpu": 1, "synchronize": 1 + 2}
