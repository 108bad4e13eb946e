"""What a run has trained, apart from what its backbone's weights and its seed give again.

Kept is what trains (the head too), what is a buffer and not as it was built (statistics of batch norm or of a probe,
features of neighbours, a selection), and what is frozen but was changed by a start from data. The rest is built anew.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.errors import UserError
from benchmarks.model.build import Parts

_CLOSE = 1e-3  # of the norm: a resized position embedding is not the same to the last bit on every machine
_MEAN = "models of a soup must have all but their training in common"


class Print(NamedTuple):
    """Tells a tensor from others: the CRC-32 of its bytes; the sum of its values, and of their squares."""

    crc: int
    total: float
    squares: float


Prints = dict[str, Print]  # by the name of a tensor in a model


@dataclass(frozen=True)
class Built:
    """A method's parts as they were built, by their fingerprints; an extractor, where there is one, stays so."""

    model: Prints
    extractor: Prints


Sums = tuple[float, float]  # of all values of some tensors, and of their squares


@dataclass(frozen=True)
class Kept:
    """What is kept of a trained model.

    Attributes:
        tensors: On the CPU, by name.
        frozen: The sums of all else, of `model` and `extractor`; None of a part that there is not.
    """

    tensors: dict[str, Tensor]
    frozen: dict[str, Sums | None]

    @property
    def is_whole(self) -> bool:
        """Whether nothing else is needed: then the tensors are the whole model."""
        return not any(self.frozen.values())


def as_built(parts: Parts) -> Built:
    """Takes the fingerprints of what was built and not yet trained."""
    extractor = {} if parts.extractor is None else fingerprints(parts.extractor.state_dict())
    return Built(fingerprints(parts.model.state_dict()), extractor)


def fingerprints(tensors: Mapping[str, Tensor]) -> Prints:
    """Of tensors by name, wherever they lie."""
    return {name: _print_of(tensor) for name, tensor in tensors.items()}


def _print_of(tensor: Tensor) -> Print:
    stored = tensor.detach().cpu().contiguous().reshape(-1)
    values = stored if stored.is_floating_point() else stored.double()
    total, norm = values.sum(dtype=torch.promote_types(values.dtype, torch.float32)), torch.linalg.vector_norm(values)
    return Print(zlib.crc32(stored.view(torch.uint8).numpy().data), float(total), float(norm) ** 2)


def _sums(prints: Iterable[Print]) -> Sums | None:
    """Of all of them together; None of none."""
    found = list(prints)
    return (sum(part.total for part in found), sum(part.squares for part in found)) if found else None


def kept_of(model: nn.Module, built: Built) -> Kept:
    """Takes what is to be kept.

    Args:
        model: As training has left it, with the weights of its best epoch.
        built: What it was before.
    """
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tensors, rest = {}, []
    for name, tensor in model.state_dict().items():
        before = built.model.get(name)
        if name in trains or before is None or _print_of(tensor) != before:
            tensors[name] = tensor.detach().cpu().clone()  # each with memory of its own, as a file has it
        else:
            rest.append(before)
    return Kept(tensors, {"model": _sums(rest), "extractor": _sums(built.extractor.values())})


@torch.no_grad()
def put_back(parts: Parts, kept: Kept) -> bool:
    """Puts what was kept into parts that were built as those it is of, with the same weights and seed.

    Returns:
        Whether all else is what it was; if not, the model is another.
    """
    built = as_built(parts)
    places = dict(parts.model.named_modules())
    for name, tensor in kept.tensors.items():
        prefix, _, own = name.rpartition(".")
        if name not in built.model:
            return False
        module = places[prefix]
        if own in module._buffers:
            module._buffers[own] = tensor  # which may have another shape, as neighbours have
        else:
            module.get_parameter(own).data = tensor
    rest = _sums(found for name, found in built.model.items() if name not in kept.tensors)
    return _alike(kept.frozen["model"], rest) and _alike(kept.frozen["extractor"], _sums(built.extractor.values()))


def mean_of(kept: Sequence[Kept]) -> Kept:
    """The mean of what several runs have kept, which differ in their seed alone.

    Counts, like batches that a batch norm has seen, are the largest.

    Args:
        kept: Of one run or more.

    Returns:
        Means as their members store them, summed in float64; `frozen` is the first's.

    Raises:
        UserError: They have no mean: what is frozen was drawn by the seed, or what each chose differs.
    """
    first = kept[0]
    for other in kept[1:]:
        if not all(_alike(first.frozen[part], other.frozen[part]) for part in first.frozen):
            raise UserError(
                f"{_MEAN}, got others of what does not train: each seed drew its own, as random backbones and random "
                "projections are, and weights that were trained beside one mean nothing beside another"
            )
        if _shapes(first) != _shapes(other):
            raise UserError(f"{_MEAN}, got tensors of other names or shapes: each seed chose its own")
    return Kept({name: _mean(name, [one.tensors[name] for one in kept]) for name in first.tensors}, first.frozen)


def _shapes(kept: Kept) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in kept.tensors.items()}


def _mean(name: str, tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if first.is_floating_point():
        return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(first.dtype)
    if first.ndim == 0:
        return torch.stack(list(tensors)).max()
    if all(torch.equal(first, tensor) for tensor in tensors[1:]):
        return first
    raise UserError(f"{_MEAN}, got other choices in {name}, which have no mean")


def _alike(first: Sums | None, second: Sums | None) -> bool:
    """Sums of other numbers differ by about the norm."""
    if first is None or second is None:
        return first is second
    close = _CLOSE * max(math.sqrt(first[1]), 1e-12)
    return abs(first[0] - second[0]) <= close and math.isclose(first[1], second[1], rel_tol=_CLOSE)
