"""Every storage of a computation on fake tensors, from allocation to release, with what it is for."""

import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.memory.cuda_kernels import kernel_workspace, library_workspaces

WORKSPACE = "workspace"
aten = torch.ops.aten
CPU = torch.device("cpu")
# Views, products and casts make most of all operators; they need none of the checks of FakeTensorMode's own way.
QUICK = {
    *(aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.t.default, aten.detach.default),
    *(aten.transpose.int, aten.permute.default, aten.slice.Tensor, aten.select.int, aten.unbind.int),
    *(aten.mm.default, aten.bmm.default, aten.addmm.default),
}
KINDS = {"Attention": "attention", "Mlp": "mlp", "LayerNorm": "norm", "PatchEmbed": "patch embedding"}


class StorageTrace(TorchDispatchMode):
    """Records when each storage is allocated and released, in the order in which a GPU's would be.

    Attributes:
        events: `(storage, bytes)` for an allocation, `(storage, -1)` for a release, in order; storages are numbers.
        tags: What each storage is for.
        host_bytes: Of all that was copied to the host.
        num_operators: How many were run so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []
        self.tags: dict[int, str] = {}
        self.host_bytes = 0
        self.num_operators = 0
        self._number: dict[int, int] = {}  # live storages by their address
        self._references: dict[int, weakref.ref[Any]] = {}
        self._sum: tuple[int, int, frozenset[int]] | None = None  # a gradient sum that may have been made in place
        self._libraries: set[tuple[bool, str]] = set()  # with a workspace: whether in the backward thread, and which
        self._on_host = False
        self._modules: list[str] = []  # kinds of the modules being run
        self._names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked for very often, and slow otherwise
        self.num_operators += 1
        result = run_quickly(func, args, kwargs) if is_quick(func, args, kwargs) else func(*args, **(kwargs or {}))
        if self._on_host:
            self.host_bytes += storage_bytes(result) if func is torch.ops.aten._to_copy.default else 0
            return result
        backward = in_backward()
        tag = WORKSPACE if backward and not self._modules else None
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        new = [output for output in outputs if self._see(output, tag or self._activation(output))]
        for library, size in library_workspaces(func):
            if (backward, library) not in self._libraries:
                self._libraries.add((backward, library))
                self._allocate(size, WORKSPACE)
        for size in kernel_workspace(func, args):
            self.events.append((self._allocate(size, WORKSPACE), -1))
        self._sum = None
        if backward and new and func is aten.add.Tensor:
            operands = frozenset(self._number[address(arg)] for arg in args if isinstance(arg, Tensor))
            self._sum = (self._number[address(new[0])], storage_bytes(new[0]), operands)
        return result

    def _allocate(self, size: int, tag: str) -> int:
        number = len(self.tags)
        self.tags[number] = tag
        self.events.append((number, size))
        return number

    def _see(self, tensor: Tensor, tag: str) -> bool:
        """Registers a tensor's storage; False if it is known, or nothing."""
        key, size = address(tensor), storage_bytes(tensor)
        if key in self._number or size == 0:
            return False
        number = self._allocate(size, tag)
        self._number[key] = number
        self._references[number] = weakref.ref(tensor.untyped_storage(), lambda _: self._release(key, number))
        return True

    def _release(self, key: int, number: int) -> None:
        del self._number[key], self._references[number]
        if self._sum is not None and number in self._sum[2] and self.events[-1] == self._sum[:2]:
            # Autograd adds a second gradient into the first, which fake tensors keep it from doing.
            self.events.pop()
            self.events.append((number, -1))
            self.events.append(self._sum[:2])
            self._sum = None
            return
        self.events.append((number, -1))

    def tag(self, tensor: Tensor, tag: str) -> None:
        """Says what a tensor's storage is for."""
        number = self._number.get(address(tensor))
        if number is not None:
            self.tags[number] = tag

    def _activation(self, tensor: Tensor) -> str:
        """What a tensor made in a forward pass is, by the module that makes it."""
        kind = self._modules[-1] if self._modules else "loss"
        if kind == "attention" and tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2]:
            kind = "attention scores"
        return f"activations: {kind}"

    def tag_state(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """A hook behind optimiser steps: tags their state."""
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    self.tag(value, "optimizer_state")

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """What is made inside lies on the host, and takes no memory of the device."""
        self._on_host = True
        try:
            yield
        finally:
            self._on_host = False

    @contextmanager
    def offloaded(self) -> Iterator[None]:
        """As `on_host`, but that `host_bytes`, which are of what stays there, do not count it."""
        before = self.host_bytes
        with self.on_host():
            yield
        self.host_bytes = before

    def watch_model(self, root: nn.Module, images: Collection[str]) -> None:
        """Tags what belongs to a model: its parameters, their gradients, its inputs, and activations by module.

        Args:
            root: The model.
            images: Names of inputs that are images; the others are features.
        """

        def tag_inputs(module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
            for name, tensor in inputs.items():
                self.tag(tensor, "input images" if name in images else "input features")

        for tensor in (*root.parameters(), *root.buffers()):
            self.tag(tensor, "parameters")
        for parameter in root.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._tag_gradient)
        root.register_forward_pre_hook(tag_inputs, with_kwargs=True)
        for name, module in root.named_modules():
            self._names[module] = module_kind(name, module)

    def _tag_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.tag(parameter.grad, "gradients")

    @contextmanager
    def watch_modules(self) -> Iterator[None]:
        """Knows, while inside, which module is being run, and tags the state of optimisers."""

        def enter(module: nn.Module, args: Any) -> None:
            outer = self._modules[-1] if self._modules else "other"
            self._modules.append(self._names.get(module) or outer)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._modules.pop()

        handles = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
            register_optimizer_step_post_hook(self.tag_state),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def is_quick(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether `run_quickly` may run an operator: one of `QUICK`, or a cast or a sum of what no value is known of."""
    if func in QUICK:
        return not kwargs
    if func is aten._to_copy.default:
        return bool(kwargs) and kwargs.keys() == {"dtype"} and _is_unknown(args[0])
    return func is aten.add.Tensor and not kwargs and all(map(_is_unknown, args))


def _is_unknown(value: Any) -> bool:
    return isinstance(value, FakeTensor) and value.constant is None


def run_quickly(func: Any, args: Any, kwargs: Any = None) -> Any:
    """Runs an operator on fake tensors by its meta kernel: as FakeTensorMode, in a fifth of the time."""
    mode = args[0].fake_mode
    with in_kernel_invocation_manager(mode):
        if func is aten._to_copy.default:
            result = aten.empty_like.default(args[0], dtype=kwargs["dtype"])  # what it makes, of the same strides
        elif func is aten.addmm.default:
            result = aten.mm.default(
                *args[1:]
            )  # of the same shape and type, and its own kernel takes five times longer
        else:
            result = func(*args)
    if isinstance(result, Tensor):
        return FakeTensor(mode, result, CPU)
    return [FakeTensor(mode, item, CPU) for item in result]


def module_kind(name: str, module: nn.Module) -> str:
    """The kind of a module's activations; empty for that of the module around it.

    Parts beside the backbone (a side network, a fusion) count as one kind each.
    """
    part = name.partition(".")[0]
    if part not in ("", "backbone"):
        return part.replace("_", " ")
    own = type(module)
    if own.__module__.startswith("methods."):
        return own.__name__.lower() if "." in name else "other"
    return "residual stream" if own.__name__ == "Block" else KINDS.get(own.__name__, "")


def address(tensor: Tensor) -> int:
    """Identifies a live storage."""
    return tensor.untyped_storage()._cdata


def storage_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's storage."""
    return tensor.untyped_storage().nbytes()


def in_backward() -> bool:
    """Whether autograd's backward pass is running."""
    return torch._C._current_graph_task_id() != -1
