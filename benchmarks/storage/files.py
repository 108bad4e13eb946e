"""Files written whole or not at all, and JSON read back: what is no JSON, or not what it must be, is one line."""

import contextlib
import hashlib
import json
import os
import platform
import stat
import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from benchmarks.errors import MachineError, UserError, one_line
from benchmarks.storage.modes import make_folder, make_private, open_private
from benchmarks.storage.notes import say

T = TypeVar("T")

PROBE_BYTES = 2**16  # what a record and its predictions take, some thousand images aside
# What pydantic says without the words "should be", or with Python's name of it.
_RULES = {
    "missing": "be given",
    "dict_type": "be an object",
    "extra_forbidden": "be a known name",
    "unexpected_keyword_argument": "be a known name",
}


_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def irregular(path: Path) -> str | None:
    """What stands there in the place of a file, as `a FIFO`: who opens it may wait for ever. None for all else."""
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except OSError:  # gone, or a link to nothing: opening it says so at once
        return None


def why_no_file(path: Path) -> str:
    """What stands in the place of a file that was named, for a message."""
    kind = irregular(path) or ("a folder" if path.is_dir() else None)
    return f"that is {kind}" if kind else "there is no such file"


def file_in_the_way(folder: Path) -> Path | None:
    """The file that stands where a folder is to be, or a folder above it; None where there is none."""
    first = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return None if first.is_dir() else first


def read_regular(path: Path) -> bytes:
    """Content of a file.

    Raises:
        UserError: It is a FIFO, a socket or a device.
        OSError: It cannot be read.
    """
    kind = irregular(path)
    if kind is not None:
        raise UserError(f"it must be a regular file, got {kind} at {str(path)!r}; remove it or name another")
    return path.read_bytes()


def check_writable(folder: Path, place: str = "results") -> None:
    """Makes sure that files can be stored in a folder, which is made.

    Raises:
        MachineError: It is read-only, or full.
    """
    probe = folder / f".probe.{platform.node()}-{os.getpid()}.tmp"
    write_atomic(probe, bytes(PROBE_BYTES), place)
    probe.unlink(missing_ok=True)


def make_results(results: Path) -> None:
    """Makes a results folder, for its owner alone; one that is there stays as open as it is.

    Raises:
        MachineError: It cannot be made.
    """
    try:
        make_private(results)
    except OSError as error:
        raise not_writable(results, error) from error


def write_atomic(path: Path, data: bytes, place: str = "results", sync: bool = True, private: bool = False) -> Path:
    """Writes a file so that a reader, or the next start after a crash, sees all of it or nothing.

    Args:
        path: The file.
        data: Its content.
        place: The option that says where it lies, `results` or `cache`.
        sync: Whether that holds for a crash of the machine too. It takes milliseconds, on a busy disk more: leave it
            out for what is checked when it is read and can be made again.
        private: Whether it may name patients, and is for its owner alone, as `modes.private_mode` says.

    Raises:
        MachineError: The folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        make_folder(path.parent)
        with open(partial, "wb", opener=open_private if private else None) as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if sync:
            _sync_folder(path.parent)  # the rename itself is durable only then
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise not_writable(path.parent, error, place) from error
    return path


def write_disposable(path: Path, data: bytes, place: str = "cache", private: bool = False) -> None:
    """Writes a sealed file that can be made again at any time, for `read_disposable`.

    Where there is no room for it, a note says so once a folder.

    Args:
        path: The file.
        data: Its content.
        place, private: As `write_atomic` has them.
    """
    try:
        write_atomic(path, seal(path, data), place, sync=False, private=private)
    except MachineError as error:
        say(f"{path.parent.name} is made anew each time: {error}", once=path.parent)


def read_disposable(path: Path) -> bytes | None:
    """What `write_disposable` wrote there; None where there is nothing, or something else: a note says so."""
    try:
        return read_sealed(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UserError) as error:
        say(f"{path.parent.name}/{path.name} is made anew: {one_line(error)}")
        return None


def seal(path: Path, data: bytes) -> bytes:
    """Content with a first line that holds the SHA-256 of it and of the place where it belongs."""
    place = os.fsencode(f"{path.parent.name}/{path.name}")  # a file copied over another is damage too
    return b"sha256 " + hashlib.sha256(place + b"\0" + data).hexdigest().encode() + b"\n" + data


def read_sealed(path: Path) -> bytes:
    """Content of a file that `seal` made.

    Raises:
        UserError: It is not what was written there, or no regular file.
        OSError: It cannot be read.
    """
    sealed = read_regular(path)
    data = sealed.partition(b"\n")[2]
    if seal(path, data) != sealed:
        raise UserError("its content must have the digest in its first line, got another")
    return data


Stamp = tuple[int, ...] | None  # of a file; None where there is none


def stamp(path: Path) -> Stamp:
    """Inode, size and times (ns) of a file: whoever writes into it cannot keep the last of these."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":  # where a folder is not opened, and a rename is the file system's affair
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_writable(folder: Path, error: Exception, place: str = "results") -> MachineError:
    """The error of a folder that is read-only, full or gone."""
    reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
    return MachineError(
        f"{place} must be a folder that can be written, got {str(folder)!r} ({reason}): "
        f"free it or choose another with --{place}"
    )


def parse_json(data: bytes) -> Any:
    """Content of a JSON file as this program writes them: every number finite, every string text.

    Raises:
        UserError: It is not.
    """
    try:
        content = from_json(data)
        text = to_json(content, inf_nan_mode="constants")
        if b"NaN" in text or b"Infinity" in text:  # as numbers, which 1e999 is too, or in a text
            json.dumps(content, allow_nan=False)
    except ValueError as error:
        raise UserError(str(error)) from error
    return content


def read_cached(path: Path) -> dict[str, Any]:
    """What `write_cached` wrote there; empty where there is nothing, or something else: a note says so."""
    data = read_disposable(path)
    return {} if data is None else dict(parse_json(data))


def write_cached(path: Path, content: dict[str, Any]) -> None:
    """Writes values as JSON, as `write_disposable` does."""
    write_disposable(path, json.dumps(content).encode())


def check_content(model: TypeAdapter[Any], content: Any, name: str = "content") -> None:
    """Checks content of a file that stays as it is: its values are of just the types that the model says.

    Args:
        model: Of dictionaries with known keys; what else they hold is not looked at.
        content: As `parse_json` gives it.
        name: What all of it is called in an error.

    Raises:
        UserError: The content does not follow the model; it names the first place.
    """
    try:
        model.validate_python(content, strict=True)
    except ValidationError as error:
        raise _first_error(error, name) from error


def parse_as(model: TypeAdapter[T], data: bytes, name: str = "content") -> T:
    """Content of a JSON file as what the model makes of it, such as a dataclass.

    Raises:
        UserError: It is no JSON, as `parse_json` says, or does not follow the model.
    """
    parse_json(data)
    try:
        return model.validate_json(data, strict=True)
    except ValidationError as error:
        raise _first_error(error, name) from error


def _first_error(error: ValidationError, name: str) -> UserError:
    first = error.errors(include_url=False, include_context=False)[0]
    found = "nothing" if first["type"] == "missing" else f"{first['input']!r:.200}"
    return UserError(f"{_place(first, name)} must {_rule(first)}, got {found}")


def _rule(error: ErrorDetails) -> str:
    return _RULES.get(error["type"]) or error["msg"].partition(" should ")[2] or f"be right ({error['msg']})"


def _place(error: ErrorDetails, name: str) -> str:
    path = ""
    for key in error["loc"]:
        is_name = isinstance(key, str) and key.isidentifier()
        path += f".{key}" if is_name else f"[{key!r}]"
    return path.removeprefix(".") or name
