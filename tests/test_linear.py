"""The linear probe's standardised features: against NumPy, whatever the batches, and stored with the model."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_process import TINY, options_of
from numpy.typing import NDArray
from test_recipe import DeadlyCheckpoints, Killed, train_small, weights
from tiny_images import make_images
from torch import Tensor

from benchmarks.model.build import count_parameters
from benchmarks.model.method_config import make_config
from benchmarks.suite.plan import make_plan
from benchmarks.suite.run import Run
from benchmarks.training.checkpoint import Checkpoints
from benchmarks.training.clock import Clock
from methods import METHODS
from methods.probes.linear import LinearProbe, standardize

D = 6


def features(count: int = 50) -> NDArray[np.float32]:
    """Of very different scales; number 4 is constant, number 5 but for rounding."""
    rows = np.random.default_rng(0).normal(size=(count, D)) * [1, 30, 1e-3, 1, 0, 0] + [0, 5, 1, 1e4, 0.1, 0.3]
    made: NDArray[np.float32] = rows.astype(np.float32)
    made[::2, 5] = np.nextafter(made[0, 5], np.float32(1))
    return made


def batches(rows: NDArray[np.float32], size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    for start in range(0, len(rows), size):
        part = torch.from_numpy(rows[start : start + size])
        yield {"feature": part}, torch.zeros(len(part), dtype=torch.long)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_mean_and_deviation_are_numpys_whatever_the_batches(size: int) -> None:
    model, rows = LinearProbe(D, 2), features()
    standardize(model, batches(rows, size))
    mean, std = rows.astype(np.float64).mean(0), rows.astype(np.float64).std(0)
    std[4:] = 1
    np.testing.assert_allclose(model.mean.numpy(), mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.std.numpy(), std, rtol=1e-6)
    seen = (torch.from_numpy(rows) - model.mean) / model.std
    torch.testing.assert_close(seen.double().mean(0), torch.zeros(D).double(), rtol=0, atol=1e-3)
    model.head.weight.data = torch.randn(2, D)
    torch.testing.assert_close(model(torch.from_numpy(rows)), seen @ model.head.weight.T)


def test_the_same_batches_give_the_same_bits_and_a_second_call_forgets_the_first() -> None:
    model, again = LinearProbe(D, 2), LinearProbe(D, 2)
    standardize(model, batches(features(30), 8))
    standardize(model, batches(features(), 8))
    standardize(again, batches(features(), 8))
    assert torch.equal(model.mean, again.mean) and torch.equal(model.std, again.std)


def test_its_statistics_are_no_parameters() -> None:
    counts = count_parameters("linear", make_config("linear", {}), "vit_tiny_patch16_224", 3)
    assert (counts["trainable_total"], counts["trainable"]) == (3 * 193, 0)
    assert set(LinearProbe(D, 2).state_dict()) == {"mean", "std", "head.weight", "head.bias"}


class Pixels(LinearProbe):
    """The probe on pixels, as the small runs of test_recipe have them."""

    def __init__(self) -> None:
        super().__init__(3 * 8 * 8, 2)

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.flatten(1))


def pixel_recipe(model: Any, config: Any, num_steps: int) -> Any:
    def prepare(model: Any, batches: Any) -> None:
        standardize(model, (({"feature": inputs["image"].flatten(1)}, labels) for inputs, labels in batches))

    return dataclasses.replace(METHODS["linear"].recipe(model, config, num_steps), prepare=prepare)


def test_a_resumed_training_has_the_same_statistics_and_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, undisturbed, _ = train_small(pixel_recipe, model=Pixels())
    assert undisturbed.std.min() > 0 and not torch.equal(undisturbed.mean, torch.zeros(3 * 8 * 8))
    notes: list[str] = []
    torch.manual_seed(0)
    with pytest.raises(Killed):
        train_small(pixel_recipe, DeadlyCheckpoints(tmp_path, "run", notes.append, 2), Pixels())
    torch.manual_seed(0)
    _, resumed, _ = train_small(pixel_recipe, Checkpoints(tmp_path, "run", notes.append), Pixels())
    expected = weights(undisturbed)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items()) and notes == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preload", ["on", "off"])
def test_a_run_standardises_by_every_training_image(
    preload: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features that reach the head over the whole training split, also where it does not divide into batches."""
    seen: list[Tensor] = []
    linear = METHODS["linear"]

    def recipe(model: Any, config: Any, num_steps: int) -> Any:
        def prepare(model: Any, batches: Any) -> None:
            standardize(model, batches)
            seen.extend((inputs["feature"] - model.mean) / model.std for inputs, _ in batches)

        return dataclasses.replace(linear.recipe(model, config, num_steps), prepare=prepare)

    monkeypatch.setitem(METHODS, "linear", dataclasses.replace(linear, recipe=recipe))
    make_images(tmp_path / "images")
    words = [word if word != "images" else str(tmp_path / "images") for word in TINY]
    more = ("--preload", preload, "--precision", precision, "--epochs", "1", "--cache", str(tmp_path))
    monkeypatch.setattr(Run, "_predict_memory", lambda *_: None)
    monkeypatch.setattr(Run, "_images_at_once", lambda *_: 2)  # else predicted, with this recipe on fake tensors
    run = make_plan(options_of("--methods", "linear", *words, *more)).runs[0]
    Run(run.config, run.places, run.weights, Clock(), lambda *_, **__: None).execute()
    rows = torch.cat(seen).double()
    assert len(rows) % run.config.batch_size and rows.dtype == torch.float64
    torch.testing.assert_close(rows.mean(0), torch.zeros(192).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(192).double(), rtol=1e-3, atol=1e-3)
