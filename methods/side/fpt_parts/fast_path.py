"""The one switch between FPT's plain modules and their fast path.

The fast path calls operators of PyTorch that are not documented and may change with its version. Where one is missing,
or computes something else, the plain modules run, and a warning says so.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from methods.side.fpt_parts.fusion import Stored, attend
from methods.side.fpt_parts.lean_extraction import attend_in_two_passes, attention_with_logsumexp
from methods.side.fpt_parts.lean_fusion import attend_to_features
from methods.side.fpt_parts.lean_layers import LeanBlock

_plain = ContextVar("plain", default=False)


def fast_path() -> bool:
    """Whether what is built now is lean: everywhere but in `plain_path`, and where this PyTorch lacks what it takes."""
    return not _plain.get() and _computes_the_same()


@contextmanager
def plain_path() -> Iterator[None]:
    """What is built inside are the plain modules."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


@cache
def _computes_the_same() -> bool:
    """Tries the fast path on a few numbers, once in a process."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.enable_grad():
            _try_blocks()
            _try_fusion()
            _try_extraction()
    except Exception as error:
        message = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"FPT and FPT+ run their plain modules, which take more memory and time: with torch {torch.__version__} "
            f"the fast path fails ({type(error).__name__}: {message})",
            stacklevel=3,
        )
        return False
    return True


def _try_blocks() -> None:
    block = Block(16, 2, qkv_bias=True)
    x, prompts = torch.randn(2, 5, 16, requires_grad=True), torch.randn(2, 3, 16, requires_grad=True)
    for fused in (False, True):
        block.attn.fused_attn = fused
        lean = LeanBlock(block, None)
        _compare(
            lambda: block(torch.cat([x, prompts], dim=1))[:, :5],
            lambda lean=lean: lean(x, prompts),  # type: ignore[misc]
            [x, prompts, *block.parameters()],
        )


def _try_fusion() -> None:
    query = torch.randn(2, 3, 16, requires_grad=True)
    stored = Stored(torch.randn(2, 2, 2, 4, 8).half(), torch.randn(2, 2, 2, 4, 8).half())
    _compare(lambda: attend(query, stored), lambda: attend_to_features(query, stored), [query])


def _try_extraction() -> None:
    """The CPU's fused kernel by numbers, the GPU's by the shapes and types that they promise."""
    query, key, value = (torch.randn(2, 2, 5, 8) for _ in range(3))
    attention = (query @ key.mT / 8**0.5).softmax(dim=-1)
    found = attend_in_two_passes(query, key, value, 8**-0.5)
    torch.testing.assert_close(found, (attention @ value, attention.mean(dim=2)), rtol=1e-4, atol=1e-4)
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.empty(2, 2, 5, 8, dtype=dtype, device="meta")
        output, logsumexp = attention_with_logsumexp(tensor, tensor, tensor, 8**-0.5)
        promised = (output.shape, output.dtype, logsumexp.shape, logsumexp.dtype)
        assert promised == (tensor.shape, dtype, tensor.shape[:3], torch.float32), promised


def _compare(plain: Callable[[], Tensor], lean: Callable[[], Tensor], inputs: Sequence[Tensor]) -> None:
    """Outputs and gradients of two ways to compute the same.

    Raises:
        AssertionError: They differ.
    """
    results = []
    for function in (plain, lean):
        output = function()
        results.append((output, *torch.autograd.grad(output.square().sum(), inputs)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
