"""Fits the weights of a file to a backbone: under timm's names, every tensor there and of the right shape.

Position embeddings of another square grid stay as they are: they are resized to the run's own grid when they are
loaded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.patch_embed import resample_patch_embed as resampled_patches
from torch import Tensor, nn

from benchmarks.errors import UserError, one_line
from benchmarks.model.backbone import filtered, head_prefixes, make_native
from benchmarks.model.checkpoint import Checkpoint, check_finite
from benchmarks.model.layouts import State, drop_unused, from_dinov2, from_transformers, strip_prefix, to_expected

PATCHES, POSITIONS = "patch_embed.proj.weight", "pos_embed"
MOST_MISSING = 0.1  # of a backbone's parameters: with more it is another one


@dataclass(frozen=True)
class Fitted:
    """Weights that a backbone can load.

    Attributes:
        state: Under timm's names, without a head where anything was changed.
        changed: Whether they differ from what the file holds, its wrappers and torch's own prefixes aside.
        note: What was stripped, dropped, renamed and resampled, in one line; None for nothing.
    """

    state: State
    changed: bool
    note: str | None


def fit(checkpoint: Checkpoint, backbone: str, resample_patch_embed: bool = False) -> Fitted:
    """Brings the weights of a file to the names and shapes of a backbone at its own image side.

    Args:
        checkpoint: The file's tensors.
        backbone: Name of the backbone.
        resample_patch_embed: Whether a patch embedding of another patch size is resampled (FlexiViT's way).

    Raises:
        UserError: They are not that backbone's, or not all finite; the message says what to do.
        MachineError: The hub, which describes the backbone, cannot be reached.
    """
    model: Any = make_native(backbone)
    classifiers = head_prefixes(model)
    model.reset_classifier(0)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    first = next(name for name, shape in expected.items() if len(shape) > 1 and name.endswith(".weight"))
    inner, prefix = strip_prefix(checkpoint.state, first)
    kept = drop_unused(inner, expected)
    named, layout = from_transformers(kept)
    named = to_expected(from_dinov2(named), expected)
    check_finite(named, checkpoint.path)
    _check_positions(named, model, expected, backbone)
    patched, resampled = _with_patches(named, expected, backbone, resample_patch_embed)
    state = _filtered(patched, model, backbone)
    resampled += [name for name in state if name in named and _resized(named[name], state[name], name, resampled)]
    if POSITIONS in named and POSITIONS in state and named[POSITIONS].ndim == 3:
        state[POSITIONS] = named[POSITIONS]
    heads = [name for name in state if name not in expected and name.startswith(classifiers)]
    _check_fits({name: tensor for name, tensor in state.items() if name not in heads}, expected, backbone)
    dropped = [name for name in checkpoint.state if name.removeprefix(prefix) not in kept]
    old = [name for name in kept if name not in state]
    new = [name for name in state if name not in kept]
    changed = bool(prefix or dropped or old or new or resampled or any(not _passed_over(name) for name in heads))
    if changed:
        dropped += heads
        state = {name: state[name].clone(memory_format=torch.contiguous_format) for name in expected}
    said = [
        f"took {' of '.join(repr(key) for key in reversed(checkpoint.wrappers))}" if checkpoint.wrappers else "",
        f"stripped {prefix!r}" if prefix else "",
        f"dropped {_some(dropped)}" if dropped else "",
        _renamed(old, new, layout),
        f"resampled {_some(resampled)}" if resampled else "",
    ]
    note = "; ".join(filter(None, said))
    return Fitted(state, changed, f"weights of {checkpoint.path.name}: {note}" if note else None)


def _passed_over(name: str) -> bool:
    """Whether it belongs to the head of a timm ViT, which is left where it is: so files of before stay as they are."""
    return name.startswith("head.")


def _check_positions(named: Mapping[str, Tensor], model: Any, expected: Mapping[str, Any], backbone: str) -> None:
    """Only a square grid behind the tokens that the backbone has before it can be resized."""
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is None or named.get(POSITIONS, torch.empty(0)).ndim != 3 or len(expected.get(POSITIONS, ())) != 3:
        return
    found, wanted = named[POSITIONS].shape[1], expected[POSITIONS][1]
    before = wanted - math.prod(grid)
    if found == wanted or (found > before and math.isqrt(found - before) ** 2 == found - before):
        return
    raise UserError(
        f"position embedding must be of {before} prefix tokens and a square grid to fit {backbone}, got {found} "
        f"positions, {_grids(found)}; choose a backbone with the prefix tokens of the file, or weights of a square grid"
    )


def _grids(found: int) -> str:
    """What that many positions are."""
    side = math.isqrt(found)
    return f"{side} x {side} and {found - side * side} before"


def _with_patches(
    named: State, expected: Mapping[str, tuple[int, ...]], backbone: str, resample: bool
) -> tuple[State, list[str]]:
    """With the patch embedding of the backbone's patch size; it is told by its shape, whatever its name."""
    wanted = expected.get(PATCHES, ())
    if len(wanted) != 4:
        return dict(named), []
    others = [
        name
        for name, tensor in named.items()
        if tensor.ndim == 4 and tensor.shape[:2] == wanted[:2] and tuple(tensor.shape[2:]) != wanted[2:]
    ]
    if others and not resample:
        found = named[others[0]].shape
        raise UserError(
            f"weights must have the patch size {wanted[-1]} px of {backbone}, got {found[-2]} x {found[-1]} px in "
            f"{others[0]!r}; choose a backbone of that patch size, or --resample-patch-embed"
        )
    size = list(wanted[2:])
    return {**named, **{name: resampled_patches(named[name], size) for name in others}}, others


def _filtered(state: State, model: nn.Module, backbone: str) -> State:
    """Through timm's own filter of the architecture, which knows the layouts of its authors' code."""
    try:
        return filtered(state, model)
    except Exception as error:  # it expects what it knows, and asserts, indexes and reshapes
        raise UserError(
            f"weights must be those of {backbone}, got others, which timm cannot bring to it "
            f"({type(error).__name__}: {one_line(error)}); choose the backbone that the file is of"
        ) from error


def _resized(before: Tensor, after: Tensor, name: str, known: Sequence[str]) -> bool:
    return before.shape != after.shape and name != POSITIONS and name not in known


def _check_fits(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], backbone: str) -> None:
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    sizes = {name: math.prod(shape) for name, shape in expected.items()}
    lacking = sum(sizes[name] for name in missing) / sum(sizes.values())
    apart = f"{_some(missing, ' missing')}, {_some(unexpected, ' unexpected')}"
    if lacking > MOST_MISSING:
        raise UserError(
            f"weights must hold the backbone {backbone}, got a file without {100 * lacking:.0f}% of its parameters: "
            f"{apart}; choose the backbone that the file is of (bench.py list backbones)"
        )
    if missing or unexpected:
        raise UserError(
            f"weights must be those of {backbone} and no others, got {apart}; choose the backbone that the file is of"
        )
    wrong = [
        f"{name} {tuple(tensor.shape)} in place of {expected[name]}"
        for name, tensor in state.items()
        if tuple(tensor.shape) != expected[name] and (name != POSITIONS or tensor.shape[-1] != expected[name][-1])
    ]
    if wrong:
        raise UserError(
            f"weights must have the shapes of {backbone}, got {len(wrong)} others: {', '.join(wrong[:3])}; choose the "
            "backbone that the file is of"
        )


def _some(names: Sequence[str], what: str = "") -> str:
    """How many, and the first ones."""
    first = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
    return f"{len(names)}{what}{first}"


def _renamed(old: Sequence[str], new: Sequence[str], layout: str | None) -> str:
    if not old and not new:
        return ""
    whose = f" from the names of {layout}" if layout else ""
    return f"renamed {len(old)}{whose} ({', '.join(old[:2])}, ...) to {len(new)} ({', '.join(new[:2])}, ...)"
