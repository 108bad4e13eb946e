"""What is kept of a model gives it back, merged too, of every method on a network of every kind of family."""

import copy
import zlib

import pytest
import torch
from small_backbones import KINDS, NARROW, WITH_SIDE_VIT, make_parts, reason
from torch import Tensor, nn

from benchmarks.inference.kept import as_built, kept_of, put_back
from benchmarks.model.build import Parts
from benchmarks.model.method_config import make_config
from benchmarks.training.step import evaluation_step
from methods import METHODS

PAIRS = [
    (family, method)
    for family in KINDS
    for method in METHODS
    if reason(family, method) is None and not METHODS[method].gradient_free
]


def moved(parts: Parts) -> None:
    """Moves all that trains, as a training does, and what training changes unasked."""
    with torch.no_grad():
        for name, parameter in parts.model.named_parameters():
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
        for module in parts.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean += 0.1


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return evaluation_step(model.eval(), dict(inputs), "fp32", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_what_is_kept_gives_the_model_back_and_merged_it_answers_alike(family: str, method: str) -> None:
    parts, inputs = make_parts(family, method)
    built, before = as_built(parts), logits(parts.model, inputs)
    moved(parts)
    trained, kept = logits(parts.model, inputs), kept_of(parts.model, built)
    assert not torch.allclose(trained, before, atol=1e-4)
    again, _ = make_parts(family, method)
    assert put_back(again, kept)
    assert torch.equal(logits(again.model, inputs), trained)
    options = NARROW.get(method, {}) | ({"side_resolution": 32, "side_reduction": 2} if method in WITH_SIDE_VIT else {})
    merge = METHODS[method].recipe(again.model, make_config(method, options), 1).before_inference
    if merge is not None:
        merged = logits(merge(copy.deepcopy(again.model)), inputs)
        torch.testing.assert_close(merged, trained, atol=1e-4 * max(1.0, float(trained.abs().max())), rtol=0)
