"""Where the host would wait for a GPU in an epoch, found on a CPU that stands in for one."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from benchmarks.config import RunConfig
from benchmarks.data.augment import Preprocessing
from benchmarks.data.batches import Split
from benchmarks.model.build import build_parts, feature_shapes
from benchmarks.model.method_config import make_config
from benchmarks.training.bench import Bench
from benchmarks.training.clock import Clock
from benchmarks.training.loop import prepare_alone, train_and_validate
from benchmarks.training.peak_memory import PhaseMemory
from benchmarks.training.state import Training
from methods import METHODS
from methods.contract import IMAGE

BACKBONE, SIDE = "vit_tiny_patch16_224", 64
STEPS, BATCHES, BATCH = 50, 10, 2  # of training, of validation, and images in each
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)

WHERE = {Tensor.device.__get__: (CPU, GPU), Tensor.is_cpu.__get__: (True, False), Tensor.is_cuda.__get__: (False, True)}  # type: ignore[attr-defined]
READS = {
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
    *(Tensor.nonzero, torch.nonzero, Tensor.masked_select, torch.masked_select, torch.equal, Tensor.equal),
    *(torch.allclose, Tensor.allclose, Tensor.unique, torch.unique, torch.is_nonzero, Tensor.is_nonzero),
}
COPIES = {Tensor.to, Tensor.cpu, Tensor.cuda}
FROM_VALUES = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}


class Waits(TorchFunctionMode):
    """Counts what makes the host wait for a GPU, in a computation on a CPU that stands in for one.

    Tensors lie on the host if they were made without a device, from numpy, or of others that do; all others, those that
    autograd makes among them, lie on the GPU. The host waits where a value on the GPU is read, where a shape depends on
    one, and where a copy between the two is not asked for as `non_blocking`.

    Attributes:
        counts: How often, by function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self._host: Any = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        hosts = [tensor in self._host for tensor in tensors]
        if func in WHERE:
            return WHERE[func][not hosts[0]]
        asked = [leaf for leaf in tree_leaves((args, kwargs)) if _names_device(leaf)]
        goes_to_host = torch.device(asked[0]).type == "cpu" if asked else all(hosts)
        if func is Tensor.cpu:
            goes_to_host = True
        elif func is Tensor.new_tensor and not asked:
            goes_to_host = hosts[0]
        if self._waits(func, args, kwargs, hosts, goes_to_host):
            self.note(getattr(func, "__name__", str(func)))
        args, kwargs = tree_map(_on_cpu, (args, kwargs))
        result = func(*args, **kwargs)
        if func in COPIES and goes_to_host != hosts[0]:
            result = result.clone()  # on a CPU it may be the very tensor that was to be copied
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not any(leaf is tensor for tensor in tensors):
                if goes_to_host:
                    self._host[leaf] = True
                else:
                    self._host.pop(leaf, None)
        return result

    def __enter__(self) -> Any:
        from_numpy = torch.from_numpy  # which torch's function modes do not see

        def on_host(array: Any) -> Tensor:
            tensor = from_numpy(array)
            self._host[tensor] = True
            return tensor

        self._patch = mock.patch.object(torch, "from_numpy", on_host)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.stop()

    def note(self, name: str) -> None:
        """Counts one."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def _waits(self, func: Any, args: Any, kwargs: Any, hosts: list[bool], goes_to_host: bool) -> bool:
        if func in READS:
            return not all(hosts)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            indices = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
            return any(index.dtype == torch.bool and index not in self._host for index in indices)
        if func in FROM_VALUES:
            return not goes_to_host
        if kwargs.get("non_blocking"):
            return False
        if func in COPIES:
            return goes_to_host != hosts[0]
        return func is Tensor.copy_ and hosts[0] != hosts[1]


def _names_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value in ("cpu", "cuda"))


def _on_cpu(value: Any) -> Any:
    return CPU if _names_device(value) else value


class _Features:
    """Stands in for a feature cache."""

    def __init__(self, shapes: dict[str, tuple[tuple[int, ...], str]]) -> None:
        self.shapes = shapes
        self.sample_bytes = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())

    def read(self, indices: Any, pin: bool, for_each: Any) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(np.ones((len(indices), *shape), dtype))
            for name, (shape, dtype) in self.shapes.items()
        }


@contextmanager
def _as_on_a_gpu(waits: Waits) -> Iterator[None]:
    """What asks CUDA itself is answered without it."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # autocast and GradScaler say that there is no CUDA
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor))
        stack.enter_context(mock.patch.object(torch.cuda, "synchronize", lambda device: waits.note("synchronize")))
        for name in ("empty_cache", "reset_peak_memory_stats"):
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *device: None))
        stack.enter_context(mock.patch.object(PhaseMemory, "_peaks", lambda memory: {}))  # counters of the host
        # It moves its result to where its own gradients say they lie; it never waits.
        stack.enter_context(mock.patch.object(nn.utils, "clip_grad_norm_", lambda parameters, norm: None))
        stack.enter_context(waits)
        yield


@cache
def epoch_waits(method: str, backbone: str = BACKBONE) -> dict[str, int]:
    """How often the host waits in an epoch of a small model, its validation and keeping its weights, by function."""
    torch.manual_seed(0)
    config = make_config(method, {})
    parts = build_parts(method, config, backbone, 2, SIDE)
    extracts = parts.extractor is not None
    views = {
        name: np.zeros((STEPS * BATCH, 3, side, side), np.uint8)
        for name, side in METHODS[method].views(config, SIDE).items()
        if not (extracts and name == IMAGE)
    }
    features: Any = _Features(feature_shapes(method, config, backbone, SIDE)[0]) if extracts else None
    labels = np.arange(STEPS * BATCH) % 2
    train = Split(labels, views, features)
    val = Split(labels[: BATCHES * BATCH], {name: view[: BATCHES * BATCH] for name, view in views.items()}, features)
    run = RunConfig(
        method, "none", "", SIDE, 0, backbone, "none", None, 2, BATCH, 1e-3, 0.1, preload=extracts, device_type="cuda"
    )  # fmt: skip
    waits = Waits()
    recipe = METHODS[method].recipe(parts.model, config, run.num_steps(len(labels)))
    bench = Bench(
        run, parts.model, None, recipe, Preprocessing((0.5,) * 3, (0.5,) * 3, CPU), ("a", "b"), GPU, Clock(),
        PhaseMemory(GPU), lambda event, **fields: None,
    )  # fmt: skip
    with _as_on_a_gpu(waits):
        if METHODS[method].gradient_free:
            prepare_alone(bench, train, val)
            return dict(waits.counts)
        training = Training(bench, train)
        waits.counts.clear()
        train_and_validate(training, train, val, 1)
    return dict(waits.counts)


def epoch_synchronisations(method: str) -> int:
    """How often the host waits for the GPU in an epoch; of what trains nothing by gradients, in its one pass."""
    return sum(epoch_waits(method).values())
