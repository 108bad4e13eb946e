"""Reads a file of weights: tensors only, out of whatever wraps them, and never a program.

A pickle may name functions to call. `torch.load(weights_only=True)` refuses all but a few of its own; a published
checkpoint needs some more, which build data alone and are allowed here one by one.
"""

import argparse
import pathlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.errors import UserError

# Where trainers put a model, the averaged teacher before what it teaches.
WRAPPERS = (
    "teacher", "model_ema", "state_dict_ema", "ema", "state_dict", "model", "module", "encoder", "student",
)  # fmt: skip
_PARALLEL = re.compile(r"(?:module\.|_orig_mod\.)+")  # of torch's data parallelism and compiler
_NUMPY_TYPES = (
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.float16, np.float32,
    np.float64,
)  # fmt: skip
_SAFE: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,  # the options of MAE's and many other training scripts, and paths among them
    pathlib.PosixPath,
    (pathlib.PosixPath, "pathlib._local.PosixPath"),
    np.dtype,
    np.ndarray,
    multiarray.scalar,
    multiarray._reconstruct,
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    *(type(np.dtype(kind)) for kind in _NUMPY_TYPES),
]
_REMEDY = "save it again as safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file.

    Attributes:
        path: The file.
        state: They by their names in the file, without torch's own prefixes; numbers in float32, for half precision
            is how they were stored, not how they are used.
        wrappers: The keys under which they lay, from the outside.
    """

    path: Path
    state: dict[str, Tensor]
    wrappers: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a safetensors file, or a checkpoint of torch with `weights_only`.

    Raises:
        UserError: It is neither, needs names that could run a program, or holds no tensors.
    """
    reason = _no_weights(path)
    if reason is not None:
        raise _refused(path, *reason)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load(path)
        state, wrappers = _unwrap(content)
        state = {_PARALLEL.sub("", name, 1) if _PARALLEL.match(name) else name: _single(state[name]) for name in state}
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own types
        raise _refused(path, _why(error), _REMEDY) from error
    if not state:
        raise _refused(path, "it holds no tensors under names", _REMEDY)
    return Checkpoint(path, state, wrappers)


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """A run on other numbers would seem to diverge; in fp32, in which the backbone holds them.

    Raises:
        UserError: A number is not finite; the message names the tensor.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not (finite := tensor.float().isfinite()).all():
            found = tensor.float()[~finite][0].item()
            raise UserError(f"weights must be finite, got {found} in {name!r} of {str(path)!r}; take an undamaged file")


def _load(path: Path) -> object:
    with torch.serialization.safe_globals(_SAFE):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The innermost state dict; what lies beside it (options, optimisers, counters) is left."""
    wrappers: list[str] = []
    while isinstance(content, Mapping) and len(wrappers) < len(WRAPPERS):  # a pickle may hold itself
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            return {n: t for n, t in content.items() if isinstance(n, str) and isinstance(t, Tensor)}, (*wrappers,)
        wrappers.append(key)
        content = content[key]
    raise TypeError(f"it holds a {type(content).__name__} in the place of a state dict")


def _single(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.float() if tensor.is_floating_point() else tensor


def _no_weights(path: Path) -> tuple[str, str] | None:
    """What a failed download has left in the place of weights, and what to do."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if path.stat().st_size == 0:
        return "the file is empty", "download it again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page", "open it to see what the page asks for, and download the weights themselves"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs", "fetch the weights themselves with `git lfs pull`"
    return None


def _why(error: Exception) -> str:
    """What is wrong with a file in one line; a name that could run a program by that name."""
    said = " ".join(str(error).split())
    unsafe = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", said)
    if unsafe:
        return f"it asks for {unsafe[1]}, which could run a program"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _refused(path: Path, reason: str, remedy: str) -> UserError:
    return UserError(
        f"weights must be a safetensors file or a checkpoint of tensors, got {str(path)!r}: {reason}; {remedy}"
    )
