"""What CUDA does otherwise than the CPU, where it changes what memory a step takes.

Fake tensors stand on the CPU; `CudaSemantics` makes each torch function choose the operators that a GPU would: fused
attention kernels, autocast's list of fp32 operators, fused dropout with a boolean mask. Who asks a tensor `is_cpu` or
`is_cuda` is told that it lies on a GPU (its `device` is still the CPU, which autocast goes by). `kernel_workspace`
knows what kernels allocate besides their outputs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
LOW_PRECISION = (torch.bfloat16, torch.float16)
# https://pytorch.org/docs/stable/amp.html, lists of CUDA: operators that run in fp32, and that give fp32.
FP32_INPUTS = {"layer_norm", "group_norm", "exp", "log", "pow", "rsqrt", "norm", "cosine_similarity", "softplus"}
FP32_OUTPUT = {"softmax", "log_softmax", "sum", "prod", "cumsum", "cumprod"}
IS_ON = {Tensor.is_cpu.__get__: False, Tensor.is_cuda.__get__: True}  # type: ignore[attr-defined]
PROMOTED_ON_CPU = (torch.cat, torch.stack)  # by copies that CUDA does not make: its kernels promote as they write
MATMULS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm}
CUBLAS_WORKSPACE = 32 * 2**20  # of a handle on Hopper; one for each thread that multiplies
CUBLASLT_WORKSPACE = 2**20  # of a handle that multiplies and adds a bias; kept like the other

NUM_SMS, THREADS_PER_SM, WARP = 132, 2048, 32  # of an H100
REDUCTION_THREADS = 512  # of a block


class CudaSemantics(TorchFunctionMode):
    """Makes torch functions on fake CPU tensors run the operators that a GPU would run."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func in IS_ON:
            return IS_ON[func]
        if func is Tensor.backward:
            with self:
                return run_backward(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return fused_attention(*args, **kwargs)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func in PROMOTED_ON_CPU:
            with torch.autocast("cpu", enabled=False):
                return func(*args, **kwargs)
        if name in FP32_OUTPUT and args and is_low_precision(args[0]):
            if torch.is_autocast_enabled("cpu"):
                kwargs["dtype"] = kwargs.get("dtype") or torch.float32
            if name == "softmax" and args[0].dtype == torch.float16 and kwargs.get("dtype") == torch.float32:
                dim = kwargs["dim"] if "dim" in kwargs else args[1]
                return torch._softmax(args[0], dim, True)  # CUDA's kernel reads fp16 and writes fp32
        elif name in FP32_INPUTS and torch.is_autocast_enabled("cpu"):
            args = tuple(arg.float() if is_low_precision(arg) else arg for arg in args)
        return func(*args, **kwargs)


def run_backward(
    loss: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """As `Tensor.backward`, but that torch function modes stay on for what checkpoints compute again."""
    engine = torch.autograd.Variable._execution_engine
    gradient = torch.ones_like(loss) if gradient is None else gradient
    keep = create_graph if retain_graph is None else retain_graph
    leaves = tuple(inputs or ())
    engine.run_backward((loss,), (gradient,), keep, create_graph, leaves, allow_unreachable=True, accumulate_grad=True)


def is_low_precision(value: Any) -> bool:
    """Whether it is a tensor in a 16-bit type."""
    return isinstance(value, Tensor) and value.dtype in LOW_PRECISION


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **kwargs: Any,
) -> Tensor:
    """Attention by the kernel that CUDA chooses: flash attention in 16 bits, the memory-efficient one in fp32."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    if query.dtype in LOW_PRECISION and attn_mask is None:
        head_dim = query.shape[-1]
        padding = -head_dim % 8
        if padding:
            query, key, value = (F.pad(tensor, (0, padding)) for tensor in (query, key, value))
        scale = scale or head_dim**-0.5
        attended = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return attended[..., :head_dim] if padding else attended
    efficient = aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, attn_mask, grad, dropout_p, is_causal, scale=scale)[0]


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return input
    return torch.native_dropout(input, p, True)[0]


def library_workspaces(func: Any) -> list[tuple[str, int]]:
    """Names and bytes of the workspaces that an operator's library keeps from its first use in a thread on."""
    if func.overloadpacket not in MATMULS:
        return []
    with_bias = [("cublaslt", CUBLASLT_WORKSPACE)] if func.overloadpacket is aten.addmm else []
    return [("cublas", CUBLAS_WORKSPACE), *with_bias]


def kernel_workspace(func: Any, args: Any) -> list[int]:
    """Sizes that a kernel allocates besides its outputs, one after another."""
    packet = func.overloadpacket
    if packet is aten._softmax_backward_data:
        return [args[1].numel() * args[1].element_size()]  # grad * output
    if packet is aten._scaled_dot_product_flash_attention_backward:
        batch, heads, tokens, width = args[1].shape
        rows = batch * heads * math.ceil(tokens / 128) * 128
        return [rows * 4 * (1 + math.ceil(width / 32) * 32)]  # softmax_d, and dq accumulated in fp32
    if packet is aten._scaled_dot_product_efficient_attention_backward and args[1].dtype == torch.float32:
        return [args[1].numel() * 4]  # grad_out * out, summed to delta
    if packet is aten.sum and len(args) > 1:
        return reduction_workspace(args[0], args[1])
    return []


def reduction_workspace(tensor: Tensor, dims: Sequence[int] | None) -> list[int]:
    """Bytes of partial results where many thread blocks share a sum over outer dimensions, as biases' gradients are.

    As setReduceConfig and global_memory_size in ATen/native/cuda/Reduce.cuh: each block gets a part of the inputs, and
    keeps a value for each of its threads and each output.
    """
    reduced = {dim % tensor.ndim for dim in dims or ()}
    if not reduced or tensor.ndim - 1 in reduced or tensor.numel() == 0:
        return []  # sums along rows stay within a thread block
    inputs = math.prod(tensor.shape[dim] for dim in reduced)
    outputs = tensor.numel() // inputs
    vector = math.gcd(tensor.shape[-1], 4)
    threads = REDUCTION_THREADS // vector
    columns, rows = (_power_of_2(min(size, threads)) for size in (max(outputs // vector, 1), inputs))
    height = min(rows, threads // min(columns, WARP))
    width = min(columns, threads // height)
    values = math.ceil(inputs / height)  # summed by a thread
    grid = math.ceil(outputs / vector / width)
    at_once = NUM_SMS * (THREADS_PER_SM // (width * height))
    if inputs < min(height * 16, 256) or values < 256 or grid > at_once:
        return []
    blocks = max(min(math.ceil(at_once / grid), math.ceil(values / 16)), math.ceil(values / 256))
    return [4 * outputs * blocks * width * vector] if blocks > 1 else []


def _power_of_2(number: int) -> int:
    """The largest power of 2 up to a number."""
    return 1 << (number.bit_length() - 1)
