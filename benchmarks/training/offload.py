"""Activations that wait for the backward pass in the host's memory."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

OnHost = Callable[[], AbstractContextManager[None]]


class ActivationsOnHost(saved_tensors_hooks):
    """Inside, what autograd saves is copied to the host, and back when the backward pass asks for it.

    As `torch.autograd.graph.save_on_cpu(pin_memory=True)`, but that what lies on the device in any case, weights and
    the batch, is not copied, and that the host does not wait for copies.

    Args:
        kept: Tensors that stay on the device, as parameters and inputs do.
        on_host: Entered where a copy is made on the host.
    """

    def __init__(self, kept: Iterable[Tensor], on_host: OnHost = nullcontext) -> None:
        storages = {tensor.untyped_storage()._cdata for tensor in kept}

        def to_host(tensor: Tensor) -> Tensor | tuple[torch.device, Tensor]:
            if tensor.untyped_storage()._cdata in storages:
                return tensor
            on_gpu = tensor.device.type == "cuda"
            with on_host():
                copy = torch.empty_like(tensor, device="cpu", pin_memory=on_gpu)
                return tensor.device, copy.copy_(tensor, non_blocking=on_gpu)

        def to_device(saved: Tensor | tuple[torch.device, Tensor]) -> Tensor:
            if isinstance(saved, Tensor):
                return saved
            device, copy = saved
            return copy.to(device, copy=True, non_blocking=True)

        super().__init__(to_host, to_device)
