"""Training steps through torch.compile: a warm-up before the first epoch, whose seconds are no epoch's."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.config import Compile, Offload
from benchmarks.data.batches import Split, iterate
from benchmarks.errors import UserError, one_line
from benchmarks.training.bench import Bench
from benchmarks.training.step import Optimization, batch_loss

WARM_UP_STEPS = 3  # with CUDA graphs the first is plain, the second is recorded, the third plays the record
CPU_COMPILERS = ("g++", "clang++")


def check_compile(mode: Compile, device_type: str, offload: Offload) -> None:
    """Refuses what cannot be compiled here.

    Raises:
        UserError: Which setting must be another.
    """
    if mode == "none":
        return
    if offload != "none":
        raise UserError(
            f"offload must be none with compiled steps, whose activations torch.compile keeps itself, got {offload}; "
            "leave out --compile or --offload"
        )
    if device_type != "cuda" and mode == "reduce-overhead":
        raise UserError(f"compile must be none or default on a CPU, which has no CUDA graphs, got {mode}")
    if device_type == "cpu" and "CXX" not in os.environ and not any(map(shutil.which, CPU_COMPILERS)):
        raise UserError(
            f"compile must be none without a C++ compiler, got {mode}; install one ({' or '.join(CPU_COMPILERS)}), "
            "name one by CXX, or leave out --compile"
        )


def compile_steps(bench: Bench, optimization: Optimization, split: Split) -> None:
    """Has training steps run compiled from here on, and compiles them on the first images of the training split.

    The model, its buffers and the generators stay as they were. Random numbers are drawn as without compiling, so that
    losses are the same but for rounding. Steps of another shape, or of a stage in which other weights train, are
    compiled when they come.

    Raises:
        UserError: torch cannot compile this method's step.
    """
    batch_size = bench.config.batch_size
    options: dict[str, Any] = {"fallback_random": True}
    if bench.config.compile == "reduce-overhead":
        options["triton.cudagraphs"] = True
    optimization.compiled = torch.compile(bench.model, dynamic=False, options=options)
    order = [np.arange(batch_size) % len(split)] * WARM_UP_STEPS
    bench.emit("note", text="compiling the training step")
    bench.model.train()
    with bench.clock("compile"), bench.memory.phase("train"), _left_as_it_is(bench.model, bench.device):
        for views, labels in iterate(split, order, bench.preprocessing, bench.device, augment=False):
            with _said_plainly(bench.config.method):
                batch_loss(bench.model, bench.inputs(views), labels, optimization).backward()
            optimization.optimizer.zero_grad(set_to_none=True)
        bench.synchronize()


@contextmanager
def _left_as_it_is(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Puts buffers and generators back."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    for buffer, before in buffers:
        buffer.copy_(before)


@contextmanager
def _said_plainly(method: str) -> Iterator[None]:
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = one_line(error)[:200]
        raise UserError(
            f"method must be one whose step torch {torch.__version__} can compile, got {method} "
            f"({type(error).__name__}: {reason}); leave out --compile"
        ) from error
