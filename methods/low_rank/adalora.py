"""AdaLoRA's training (Zhang et al., ICLR 2023, arXiv 2303.10512): which ranks of which layers stay.

The update of a layer is B diag(e) A. Importance of an entry is its smoothed |weight * gradient| times the smoothed
deviation from it; that of a rank, its entry of e and the means over its column of B and row of A. After the first steps
the ranks of least importance over all layers have their e set to zero, more and more of them, until `target_rank` a
layer remain on average; those stay for the last steps. A and B are kept near orthogonal by a penalty, the mean over all
of ||A A^T - I|| and ||B^T B - I||, which peft adds only to outputs that carry a loss.

peft's allocator holds its state in dicts of its own; here it lies in buffers, so that a training goes on from it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import Recipe
from methods.low_rank.peft_layers import ADAPTER, TunedModel, merge, tuned_layers


class AdaLoraModel(TunedModel):
    """A frozen backbone with updates of ranks that are pruned, and a new head.

    Args:
        backbone: With the updates.
        num_classes: Number of classes C.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        for layer in tuned_layers(backbone):
            layer.ranknum[ADAPTER].requires_grad_(False)
        self.importance = Importance(backbone)


class Importance(nn.Module):
    """Of each entry of the updates, smoothed over the steps; and which ranks stay in the end.

    Args:
        backbone: With the updates.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        updates = _updates(backbone)
        self.names = list(updates)
        for index, parameter in enumerate(updates.values()):
            self.register_buffer(f"sensitivity_{index}", torch.zeros_like(parameter.detach()))
            self.register_buffer(f"uncertainty_{index}", torch.zeros_like(parameter.detach()))
            if parameter.shape[1] == 1:  # e
                self.register_buffer(f"stays_{index}", torch.ones_like(parameter.detach(), dtype=torch.bool))

    def allocate(self, backbone: Backbone, allocator: Any, step: int) -> None:
        """Takes a step's gradients in and prunes, where it is time to.

        Args:
            backbone: With the updates and their gradients.
            allocator: peft's, whose config has the steps of each stage.
            step: Number of the step, from 0.
        """
        last = allocator.peft_config.total_step - allocator.peft_config.tfinal
        if step > last:
            self._prune(backbone)
            return
        allocator.ipt = dict.fromkeys(self.names)
        allocator.exp_avg_ipt, allocator.exp_avg_unc = self._read("sensitivity"), self._read("uncertainty")
        _, stays = allocator.update_and_allocate(backbone, step, force_mask=step == last)
        for index, name in enumerate(self.names):
            setattr(self, f"sensitivity_{index}", allocator.exp_avg_ipt[name])
            setattr(self, f"uncertainty_{index}", allocator.exp_avg_unc[name])
            if stays is not None and name in stays:
                mask: Tensor = getattr(self, f"stays_{index}")
                mask.copy_(torch.tensor(stays[name]).unsqueeze(1))

    def _read(self, kind: str) -> dict[str, Tensor]:
        return {name: getattr(self, f"{kind}_{index}") for index, name in enumerate(self.names)}

    @torch.no_grad()
    def _prune(self, backbone: Backbone) -> None:
        for index, parameter in enumerate(_updates(backbone).values()):
            stays: Tensor | None = getattr(self, f"stays_{index}", None)
            if stays is not None:
                parameter.mul_(stays)


def allocation_recipe(model: AdaLoraModel, config: Any, num_steps: int) -> Recipe:
    """Prunes behind each step, keeps the factors near orthogonal; is used merged."""
    from peft import AdaLoraConfig
    from peft.tuners.adalora.layer import RankAllocator

    stages = AdaLoraConfig(
        init_r=config.rank,
        target_r=config.target_rank,
        tinit=int(config.warmup * num_steps),
        tfinal=int(config.final * num_steps),
        total_step=num_steps,
    )
    allocator = RankAllocator(model.backbone, stages, ADAPTER)

    def after_step(model: Any, step: int) -> bool:
        model.importance.allocate(model.backbone, allocator, step)
        return False

    def extra_loss(model: Any, logits: Tensor, labels: Tensor) -> Tensor:
        return config.orthogonality * orthogonality(model.backbone)

    return Recipe(
        after_step=after_step,
        extra_loss=extra_loss if config.orthogonality else None,
        before_inference=_used,
    )


def orthogonality(backbone: nn.Module) -> Tensor:
    """Mean distance of all A A^T and B^T B from the identity, a scalar."""
    distances = []
    for layer in tuned_layers(backbone):
        for factor in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER].T):  # (R, inputs), (R, outputs)
            with torch.autocast(factor.device.type, enabled=False):
                product = factor @ factor.T
            distances.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
    return torch.stack(distances).mean()


def _used(model: Any) -> nn.Module:
    del model.importance
    return merge(model)


def _updates(backbone: nn.Module) -> dict[str, nn.Parameter]:
    """All A, B and e, by their names in the backbone."""
    names = {parameter: name for name, parameter in backbone.named_parameters()}
    layers = list(tuned_layers(backbone))
    parts = [part[ADAPTER] for layer in layers for part in (layer.lora_A, layer.lora_B, layer.lora_E)]
    return {names[parameter]: parameter for parameter in parts}
