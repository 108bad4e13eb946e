"""Starts of LoRA's factors from the training split: EVA and LoRA-GA."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from methods.contract import Batches, TrainingBatches
from methods.low_rank.peft_layers import ADAPTER, pattern, tuned_layers


class _Inputs:
    """The model's inputs of each batch, as peft takes them."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 1  # peft asks whether there is any

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (inputs for inputs, _ in self.batches)


def start_from_inputs(model: nn.Module, batches: Batches, config: Any) -> None:
    """EVA: rows of A are the principal directions of what a layer gets, its rank follows the variance they explain.

    Directions are those of an incremental singular value decomposition, batch by batch until they no longer turn. A
    layer none of whose directions is among the best gets no update. The ranks of all layers add up to what they did.

    Args:
        model: In training mode; its updates are replaced.
        batches: Those of `Recipe.prepare`.
        config: Of the method: `rank`, `alpha`, `dropout`, `rho`.
    """
    from peft import EvaConfig, LoraConfig, get_eva_state_dict

    names = {layer: name for name, layer in model.named_modules()}
    layers = {f"{names[layer]}.base_layer": layer for layer in tuned_layers(model)}
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=config.rho),
        target_modules=pattern(layers),
    )
    directions = get_eva_state_dict(
        model,
        _Inputs(batches),
        lora,
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=lambda inputs, _, __: inputs[0].flatten(0, -2),
        show_progress_bar=False,
    )
    for name, layer in layers.items():
        rank = len(directions[name])
        if rank == 0:
            path, _, leaf = names[layer].rpartition(".")
            setattr(model.get_submodule(path), leaf, layer.get_base_layer())
            continue
        layer.update_layer(ADAPTER, rank, lora_alpha=config.alpha * rank / config.rank, config=lora)
        layer.lora_A[ADAPTER].weight.data.copy_(directions[name])


def start_from_gradients(model: nn.Module, batches: TrainingBatches, config: Any) -> None:
    """LoRA-GA: of the left and right singular vectors of the loss's gradient, the first R are A's, the next R are B's.

    Their product is taken out of the frozen weight, so that the model computes the same. The gradient is that of the
    run's loss of the new head, over the first batches.

    Args:
        model: In training mode.
        batches: Those of `Recipe.prepare`.
        config: Of the method: `num_batches`, `gamma`.
    """
    from peft.tuners.lora.config import LoraGAConfig

    layers = list(tuned_layers(model))
    weights = [layer.get_base_layer().weight for layer in layers]
    sums = [torch.zeros_like(weight) for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    for number, (inputs, labels) in enumerate(batches, start=1):
        loss = batches.loss(model(**inputs).float(), labels)
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += gradient
        if number == config.num_batches:
            break
    scale = LoraGAConfig(stable_gamma=config.gamma)
    devices = {weight.device for weight in weights if weight.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(devices):  # the same whenever a run prepares
        torch.manual_seed(0)
        for layer, weight, total in zip(layers, weights, sums, strict=True):
            weight.requires_grad_(False)
            layer.get_base_layer()._peft_loraga_grad = total / number
            layer.lora_ga_init(ADAPTER, scale)
