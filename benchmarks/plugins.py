"""Methods, datasets and backbones from outside the repository: `--plugin FILE.py`.

A plugin is a Python file that defines one or more of `METHOD` (a `methods.contract.Method`), `DATASET` (a
`datasets.info.DatasetInfo`) and `BACKBONE` (a `benchmarks.model.named.NamedBackbone`). Every process that builds a
model loads the same files: their paths travel with its job.
"""

import hashlib
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.errors import MissingError, UserError, one_line
from benchmarks.model.backbone import BACKBONES, is_backbone
from benchmarks.model.named import NamedBackbone
from benchmarks.model.spec import parse_spec
from benchmarks.storage.files import read_regular
from datasets import DATASETS
from datasets.info import DatasetInfo
from methods import METHODS
from methods.contract import Method

KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "METHOD": (Method, METHODS),
    "DATASET": (DatasetInfo, DATASETS),
    "BACKBONE": (NamedBackbone, BACKBONES),
}


@dataclass(frozen=True)
class Plugin:
    """A file that was loaded.

    Attributes:
        sha256: Of its content.
        names: Of what it defines.
    """

    sha256: str
    names: tuple[str, ...]


_LOADED: dict[Path, Plugin] = {}


def load_plugins(paths: Iterable[Path]) -> dict[str, str]:
    """Loads files, and enters what they define into the tables; a file that is loaded already stays as it is.

    Returns:
        The SHA-256 of each by the name of its file.

    Raises:
        UserError: A file is missing, has changed since it was loaded, fails to run, defines nothing, or takes a name
            that there is.
    """
    digests = {}
    for path in (path.resolve() for path in paths):
        namesake = next((other for other in _LOADED if other.name == path.name and other != path), None)
        if namesake is not None:  # records know them by these names
            raise UserError(f"plugins must have names that differ, got {str(namesake)!r} and {str(path)!r}")
        digests[path.name] = _load(path).sha256
    return digests


def loaded_plugins() -> list[Path]:
    """The files that this process has loaded, for another process to load them too."""
    return list(_LOADED)


def digests_of(*names: str) -> dict[str, str]:
    """The SHA-256 of the plugins that define any of these methods, datasets and backbones, by the name of the file.

    Args:
        names: Backbones may have their settings behind them.
    """
    asked = {parse_spec(name).name for name in names}
    return {path.name: plugin.sha256 for path, plugin in _LOADED.items() if asked & {*plugin.names}}


def check_unchanged(planned: Iterable[tuple[str, str]]) -> None:
    """Checks that the plugins loaded here are those that a run was planned with.

    Raises:
        UserError: One has changed.
    """
    here = {path.name: plugin.sha256 for path, plugin in _LOADED.items()}
    for name, digest in planned:
        if here.get(name) != digest:
            raise UserError(f"plugin {name} has changed since this suite started; start it again")


def _load(path: Path) -> Plugin:
    try:
        source = read_regular(path)
    except OSError as error:
        raise MissingError(f"plugin must be a Python file, got {str(path)!r} ({error.strerror})") from error
    except UserError as error:
        raise UserError(f"plugin {path.name}: {error}") from error
    digest = hashlib.sha256(source).hexdigest()
    known = _LOADED.get(path)
    if known is None:
        known = _LOADED[path] = Plugin(digest, _register(path, _run(path, source, digest)))
    if known.sha256 != digest:
        raise UserError(f"plugin must stay as it is while it is in use, got {str(path)!r} changed; start again")
    return known


class _SourceLoader(SourceLoader):
    """Loads a module from source that was read already."""

    def __init__(self, path: Path, source: bytes) -> None:
        self.path, self.source = path, source

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.source


def _run(path: Path, source: bytes, digest: str) -> ModuleType:
    """Runs just the source whose digest was taken, as a module that nothing else is called."""
    loader = _SourceLoader(path, source)
    spec = spec_from_loader(f"plugin_{path.stem}_{digest[:16]}", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and pickle look it up there
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        line = _line_of(error, path)
        raise UserError(
            f"plugin must run, got {str(path)!r} ({type(error).__name__}: {one_line(error)}, line {line})"
        ) from error
    return module


def _line_of(error: BaseException, path: Path) -> int | None:
    """The last line of the file on the way to an error."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return error.lineno if isinstance(error, SyntaxError) and not lines else lines[-1] if lines else None


def _register(path: Path, module: ModuleType) -> tuple[str, ...]:
    found: dict[str, Any] = {kind: getattr(module, kind) for kind in KINDS if hasattr(module, kind)}
    if not found:
        raise UserError(f"plugin must define one of {', '.join(KINDS)}, got none of them in {str(path)!r}")
    for kind, value in found.items():
        wanted, table = KINDS[kind]
        if wanted not in type(value).__mro__:
            raise UserError(f"{kind} of {str(path)!r} must be a {wanted.__name__}, got {type(value).__name__}")
        if value.name in table or (kind == "BACKBONE" and is_backbone(value.name)):
            raise UserError(f"{kind} of {str(path)!r} must have a name of its own, got {value.name!r}, which there is")
    for kind, value in found.items():
        KINDS[kind][1][value.name] = value
    return tuple(value.name for value in found.values())
