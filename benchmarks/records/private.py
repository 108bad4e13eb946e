"""Records that name no place and no machine: as they are stored, and as those that were stored before are shown."""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePath
from typing import Any

from benchmarks.privacy import hide_places, id_of_host, own_names
from benchmarks.records.schema import Record

# What of a machine and of our code a reader still sees who is not to know whose they are: what numbers depend on.
_ENVIRONMENT = (
    *("device", "device_type", "threads", "cuda", "tf32_matmul", "tf32_cudnn", "torch", "timm", "peft", "python"),
    *("runs_at_once", "allocator", "process"),
)
_CODE = ("digest", "method_digest", "version")

Hide = Callable[[str], str]


def private(record: Record, folders: Mapping[Path, str] | None = None) -> Record:
    """A record of a run or of measured memory without places; one that is private already stays as it is.

    A machine is named only beside its `host_id`, which is so where that was asked for. Records that were stored before
    had none: there it takes the name's place.

    Args:
        record: The record, which is left as it is.
        folders: As `hide_places` takes them.
    """
    environment = dict(record.get("environment") or {})
    named = "host_id" in environment and environment.get("host")
    host = None if named else environment.pop("host", None)
    if host:
        environment["host_id"] = id_of_host(host)

    def hide(text: str) -> str:
        others = {host: f"<host {environment['host_id']}>"} if host else {}
        return hide_places(text, folders, {} if named else own_names() | others)

    return _changed(record, environment, hide)


def anonymous(record: Record) -> Record:
    """A record without what tells its machine, its user and which copy of our code they have."""
    found = private(record)
    host = found.get("environment", {}).get("host")

    def hide(text: str) -> str:
        return re.sub(r"<host [0-9a-f]{8}>", "<host>", hide_places(text, hosts={host: "<host>"} if host else {}))

    found = _changed(found, _only(found.get("environment") or {}, _ENVIRONMENT), hide)
    if "run" not in found:  # a measured point
        return found | {"code": _only(found.get("code") or {}, _CODE)}
    return found | {"run": found["run"] | {"code": _only(found["run"].get("code") or {}, _CODE)}}


def _changed(record: Record, environment: dict[str, Any], hide: Hide) -> Record:
    """The record with another environment, its texts hidden, and names of files in the place of paths."""
    changed = record | {"status": _hidden(record["status"], "message", hide)}
    if "environment" in record:
        changed["environment"] = environment
    if "run" in record:
        changed["run"] = _private_run(record["run"], hide)
    return changed


def _private_run(run: dict[str, Any], hide: Hide) -> dict[str, Any]:
    run = dict(run)
    if run.get("notes"):
        run["notes"] = [hide(note) for note in run["notes"]]
    if run.get("weights"):
        run["weights"] = _private_weights(_hidden(run["weights"], "note", hide))
    if (run.get("dataset") or {}).get("folder"):  # the end of its path, in records of before
        run["dataset"] = {name: value for name, value in run["dataset"].items() if name != "folder"}
    return run


def _private_weights(weights: dict[str, Any]) -> dict[str, Any]:
    """The file's name in the place of its path; the digest beside it tells it from others of that name."""
    found = {("file" if name == "path" else name): value for name, value in weights.items()}
    for name in ("file", "requested") if weights.get("source") == "file" else ("file",):
        if found.get(name):
            found[name] = PurePath(found[name]).name
    return found


def _hidden(part: dict[str, Any], name: str, hide: Hide) -> dict[str, Any]:
    return part | {name: hide(part[name])} if part.get(name) else part


def _only(part: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name in names}
