"""Backbones that are not timm's: the medical ones of our table, and those that describe themselves in a `config.json`.

The latter are `hf-hub:owner/name` on the hub and `local-dir:PATH` on disk.
"""

import functools
import re
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch

from benchmarks.errors import MissingError, UserError, one_line
from benchmarks.model.hub import WEIGHT_FILES, hub_config
from benchmarks.model.medical import MEDICAL
from benchmarks.model.named import NamedBackbone, Stats
from benchmarks.model.spec import Spec, parse_spec
from benchmarks.storage.files import parse_json, read_regular

HUB, FOLDER = "hf-hub:", "local-dir:"


def named_backbone(name: str) -> NamedBackbone | None:
    """What a name stands for that is not timm's; None for timm's own and those of plugins.

    Raises:
        UserError: It is of a repository or folder that describes no timm model.
        MachineError: The hub cannot be reached or refuses.
    """
    return published_backbone(name) if is_published(name) else MEDICAL.get(name)


def is_published(name: str) -> bool:
    """Whether the name is of a repository or folder that has its own `config.json`."""
    return name.startswith((HUB, FOLDER))


def without_folder(backbone: str) -> tuple[str, Path | None]:
    """A backbone by timm's name where it is of a folder, and the weights there: records are to tell no path.

    Args:
        backbone: Its name, with its settings; all but those of folders stay as they are.

    Raises:
        UserError: The folder describes no timm model.
    """
    spec = parse_spec(backbone)
    if not spec.name.startswith(FOLDER):
        return backbone, None
    published = published_backbone(spec.name)
    assert published.spec is not None
    return str(Spec(published.spec.name, {**published.spec.args, **spec.args}, spec.pool)), published.path


@functools.cache
def published_backbone(name: str) -> NamedBackbone:
    """The backbone that a repository of the hub or a folder describes.

    As timm's `save_for_hf` writes it: `architecture`, `model_args`, and `pretrained_cfg` with `mean` and `std`.

    Args:
        name: `hf-hub:owner/name` or `local-dir:PATH`.

    Raises:
        UserError: There is no such file, or it describes no model of timm.
        MachineError: The hub cannot be reached or refuses.
    """
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER)).expanduser()
        path = next((folder / file for file in WEIGHT_FILES if (folder / file).is_file()), None)
        return _described(name, folder / "config.json", None, path)
    repository = name.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"backbone of the hub must be {HUB}owner/name, got {name!r}")
    return _described(name, hub_config(name, repository), repository, None)


def _described(name: str, file: Path, repository: str | None, path: Path | None) -> NamedBackbone:
    try:
        config = parse_json(read_regular(file))
    except OSError as error:
        raise MissingError(
            f"backbone {name!r} must have a config.json, got none at {str(file)!r} ({error.strerror}); name another "
            "folder, or pass the backbone's timm name and --weights FILE"
        ) from error
    except UserError as error:
        raise _bad(name, f"no JSON ({one_line(error)})") from error
    if not isinstance(config, dict):
        raise _bad(name, f"a {type(config).__name__}")
    cfg = config.get("pretrained_cfg", config)  # older files have everything on one level
    if not isinstance(cfg, dict):
        raise _bad(name, f"a pretrained_cfg of {cfg!r:.80}")
    architecture, arguments = _architecture(name, config)
    native = {key: cfg[key] for key in ("input_size", "fixed_input_size") if key in cfg}
    create = partial(
        timm.create_model, architecture, pretrained=False, pretrained_cfg_overlay=native,
        **{**arguments, "num_classes": 0},
    )  # fmt: skip
    try:
        with torch.device("meta"):
            create()
    except Exception as error:  # whatever the constructor of any architecture makes of arguments that are not its own
        raise _bad(name, f"{architecture} with {arguments!r}, which timm cannot make ({one_line(error)})") from error
    if cfg.get("fixed_input_size") and cfg.get("input_size"):
        arguments = {"img_size": cfg["input_size"][-1], **arguments}
    return NamedBackbone(
        name, create, _stats(name, cfg, "mean"), _stats(name, cfg, "std"), licence=cfg.get("license"),
        source=repository, path=path, spec=Spec(architecture, arguments),
    )  # fmt: skip


def _architecture(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    architecture, arguments = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        theirs = config.get("architectures")
        got = f"one of Hugging Face transformers, {theirs!r}" if theirs else f"architecture {architecture!r}"
        raise _bad(name, got)
    if not isinstance(arguments, dict):
        raise _bad(name, f"model_args {arguments!r:.80}")
    # An empty pooling leaves the tokens, of which no head could be made: then as the architecture itself has it.
    return architecture, {key: value for key, value in arguments.items() if (key, value) != ("global_pool", "")}


def _stats(name: str, cfg: dict[str, Any], key: str) -> Stats | None:
    value = cfg.get(key)
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) == 3 and all(isinstance(number, int | float) for number in value)):
        raise _bad(name, f"{key} {value!r:.80}")
    red, green, blue = map(float, value)
    return red, green, blue


def _bad(name: str, got: str) -> UserError:
    return UserError(
        f"config.json of backbone {name!r} must describe a timm model (architecture, model_args, pretrained_cfg), got "
        f"{got}; pass the backbone's timm name and --weights FILE"
    )
