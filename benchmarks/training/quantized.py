"""Frozen linear layers of a backbone whose weights lie in 8 or 4 bits, and are dequantised where they are used.

`int8`: whole numbers from -127 to 127 and a scale for each row, as LLM.int8() has weights (Dettmers et al., NeurIPS
2022, arXiv 2208.07339); activations stay as they are. `nf4`: one of the 16 values of the 4-bit NormalFloat, two in a
byte, and a scale for each 64 weights, as QLoRA (Dettmers et al., NeurIPS 2023, arXiv 2305.14314), without its double
quantization. Codes and scales are those that bitsandbytes makes, bit for bit.

This is code of our own, of plain torch operators, since measuring and predicting memory stand on it: it runs the same
on a CPU and a GPU, and on fake tensors, where bitsandbytes' layers cannot be made. Weights are quantised once a method
is built, from fp32: what a method takes out of them before (PiSSA's factors, so that the rest is quantised, as in its
paper; norms of DoRA and DeLoRA) is of the weights as they were.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.model.build import Parts, is_pretrained

Kind = Literal["int8", "nf4"]
INT8_MOST = 127  # the largest code; -128 is none, so that both signs are alike
BLOCK = 64  # weights that share a scale in nf4
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)  # QLoRA, appendix E
_LEAST = 1e-36  # in the place of a scale of 0, by which nothing can be divided


class QuantizedLinear(nn.Linear):
    """A frozen linear layer with its weight in few bits; for the backward pass nothing else is kept.

    `weight` is computed whenever it is read, in fp32, and what is written into it is lost. The bias, which may train,
    is the layer's own.

    Args:
        layer: Its place is taken.
        kind: `int8` or `nf4`.

    Attributes:
        codes: `(outputs, inputs)` int8, or two weights a byte, uint8, in the order of the flattened weight.
        scales: fp32, `(outputs, 1)`, or one for each block of the flattened weight, `(blocks, 1)`.
        table: Of nf4, the two values of each byte, `(256, 2)`.
    """

    codes: Tensor
    scales: Tensor
    table: Tensor | None

    def __init__(self, layer: nn.Linear, kind: Kind) -> None:
        nn.Module.__init__(self)  # a Linear's own would make a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        codes, scales = quantized(layer.weight.detach().float(), kind)
        self.codes = nn.Parameter(codes, requires_grad=False)  # no buffers, which training may change
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("table", values_of_bytes() if kind == "nf4" else None, persistent=False)
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight `(outputs, inputs)` in fp32, made anew."""
        return dequantized(self.codes, self.scales, self.table, (self.out_features, self.in_features))

    def forward(self, input: Tensor) -> Tensor:
        """As a linear layer's, in autocast's type where that is on.

        Shape:
            - input: `(*, inputs)`
            - Output: `(*, outputs)`
        """
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.scales.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        shape = (self.out_features, self.in_features)
        rows = input.to(dtype).reshape(-1, self.in_features)
        output: Tensor = _Product.apply(rows, bias, self.codes, self.scales, self.table, shape)
        return output.view(*input.shape[:-1], self.out_features)  # out here, or nothing could be added in place


class _Product(torch.autograd.Function):
    """Input `(B, inputs)` times weight, which is dequantised here, and once more for the gradient of the input."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        bias: Tensor | None,
        codes: Tensor,
        scales: Tensor,
        table: Tensor | None,
        shape: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(codes, scales, table)
        ctx.shape = shape
        return F.linear(input, dequantized(codes, scales, table, shape).to(input.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_input = grad_bias = None
        if ctx.needs_input_grad[0]:
            codes, scales, table = ctx.saved_tensors
            grad_input = grad @ dequantized(codes, scales, table, ctx.shape).to(grad.dtype)
        if ctx.needs_input_grad[1]:
            grad_bias = grad.sum(0)
        return grad_input, grad_bias, None, None, None, None


def quantized(weight: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Codes and scales of a weight `(outputs, inputs)` in fp32, as `QuantizedLinear` has them."""
    if kind == "int8":
        largest = weight.abs().amax(dim=1, keepdim=True)
        codes = torch.round(weight * (INT8_MOST / largest.clamp(min=_LEAST))).to(torch.int8)
        return codes, largest / INT8_MOST
    blocks = F.pad(weight.reshape(-1), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    values = torch.tensor(NF4, device=weight.device)
    between = (values[1:] + values[:-1]) / 2
    nearest = torch.bucketize((blocks * (1 / largest.clamp(min=_LEAST))).clamp(-1, 1), between, out_int32=True)
    first, second = nearest.to(torch.uint8).view(-1, 2).unbind(1)
    return (first << 4) | second, largest


def dequantized(codes: Tensor, scales: Tensor, table: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """The weight `(outputs, inputs)` in fp32 of codes and scales; `table` is `values_of_bytes`, of int8 None."""
    if table is None:
        return codes * scales
    blocks = table.index_select(0, codes.int()).view(-1, BLOCK)  # of int32, as others are copied to int64
    return blocks.mul_(scales).view(-1)[: shape[0] * shape[1]].view(shape)


def values_of_bytes() -> Tensor:
    """The two values of nf4 that each byte stands for, `(256, 2)`."""
    values, codes = torch.tensor(NF4), torch.arange(256)
    return torch.stack([values[codes // 16], values[codes % 16]], dim=1)


def quantize_frozen(parts: Parts, kind: Kind) -> None:
    """Puts quantised layers in the place of all linear layers of a backbone whose weight is frozen.

    A layer that several modules have stays one. What trains stays as it is, and so do the new head, norms, embeddings,
    convolutions, and layers of classes that are derived from a linear layer, as these may use their weight otherwise.

    Args:
        parts: A built method; best before it goes to a GPU.
        kind: `int8` or `nf4`.

    """
    made: dict[nn.Module, QuantizedLinear] = {}
    for parent, name, layer in list(_frozen_layers(parts)):
        if layer not in made:
            made[layer] = QuantizedLinear(layer, kind)
        setattr(parent, name, made[layer])


def has_frozen_layers(parts: Parts) -> bool:
    """Whether there is anything that `quantize_frozen` would quantise."""
    return any(True for _ in _frozen_layers(parts))


def _frozen_layers(parts: Parts) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Frozen linear layers of the backbone, and under which names which modules have them."""
    for part in (parts.model, parts.extractor):
        for parent in () if part is None else part.modules():
            for name, layer in parent._modules.items():
                if type(layer) is nn.Linear and is_pretrained(layer) and not layer.weight.requires_grad:
                    yield parent, name, layer


def dequantize(model: nn.Module) -> None:
    """Puts linear layers in fp32 in the place of quantised ones; the model computes the same."""
    made: dict[nn.Module, nn.Linear] = {}
    for parent in list(model.modules()):
        for name, layer in list(parent._modules.items()):
            if isinstance(layer, QuantizedLinear):
                if layer not in made:
                    made[layer] = _plain(layer)
                setattr(parent, name, made[layer])


def _plain(layer: QuantizedLinear) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(layer.weight, requires_grad=False)
    plain.bias = layer.bias
    return plain.train(layer.training)
