"""One step of each kind: training, evaluation, extraction. Training, measuring and predicting all run these."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.config import Precision

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_GRAD_NORM = 1.0  # as the FPT papers


def forbid_tf32() -> None:
    """Makes fp32 mean fp32 on a GPU: no TF32 in matrix products or convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def autocast(device_type: str, precision: Precision) -> torch.autocast:
    """Mixed precision on a device; with fp32 it changes nothing."""
    dtype = AUTOCAST_DTYPES[precision]
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of `model` that train."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@dataclass
class Optimization:
    """All that a training step needs besides model and batch.

    Attributes:
        optimizer: AdamW over the trainable parameters.
        scaler: Scales the loss in fp16; passes everything through otherwise.
        parameters: The trainable parameters.
        precision: Of the forward pass.
        device_type: `cpu` or `cuda`.
    """

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    parameters: list[nn.Parameter]
    precision: Precision
    device_type: str


def make_optimization(
    model: nn.Module, lr: float, weight_decay: float, precision: Precision, device_type: str
) -> Optimization:
    """AdamW (betas 0.9 and 0.999, fused: no temporary copies of the parameters) on whatever trains in `model`."""
    parameters = trainable_parameters(model)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.999), fused=True)
    scaler = torch.amp.GradScaler(device_type, enabled=precision == "fp16")
    return Optimization(optimizer, scaler, parameters, precision, device_type)


def training_step(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, optimization: Optimization) -> Tensor:
    """One optimiser step on a batch: cross-entropy, gradient norm clipped at 1.

    Args:
        model: In training mode.
        inputs: The model's inputs by name.
        labels: Class indices `(B,)`.
        optimization: Optimiser, loss scaler and precision.

    Returns:
        The batch's mean loss, detached, a scalar on the model's device.
    """
    with autocast(optimization.device_type, optimization.precision):
        logits = model(**inputs)
        loss = F.cross_entropy(logits.float(), labels)
    del logits
    optimization.scaler.scale(loss).backward()
    optimization.scaler.unscale_(optimization.optimizer)
    nn.utils.clip_grad_norm_(optimization.parameters, MAX_GRAD_NORM)
    optimization.scaler.step(optimization.optimizer)
    optimization.scaler.update()
    optimization.optimizer.zero_grad(set_to_none=True)
    return loss.detach()


@torch.no_grad()
def evaluation_step(model: nn.Module, inputs: dict[str, Tensor], precision: Precision, device_type: str) -> Tensor:
    """Logits `(B, C)` of a batch in fp32; `model` is in eval mode."""
    with autocast(device_type, precision):
        return model(**inputs).float()


@torch.no_grad()
def extraction_step(extractor: nn.Module, image: Tensor, precision: Precision, device_type: str) -> dict[str, Tensor]:
    """The frozen part's features of a batch `(B, 3, H, W)`, by name."""
    with autocast(device_type, precision):
        return extractor(image=image)
