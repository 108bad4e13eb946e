"""The stored records of runs: written whole or not at all, and checked when they are read."""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.errors import MissingError, UserError, one_line
from benchmarks.records.index import LEAST, RecordIndex
from benchmarks.records.schema import DAMAGED, RECORD, Record
from benchmarks.records.seal import DIGEST, is_sealed_as, sealed
from benchmarks.storage.csv_cells import csv_text
from benchmarks.storage.files import check_content, parse_json, read_regular, stamp, write_atomic

if TYPE_CHECKING:
    import pandas as pd


def remove_partial(results: Path, run_id: str) -> None:
    """Remove what a killed process has left of a run's half-written files; the caller holds the run's lock.

    Files that were whole already take their places.
    """
    _put_in_place(results, run_id)
    for path in (predictions_path(results, run_id), model_path(results, run_id)):
        _waiting(path).unlink(missing_ok=True)
    for path in (results / "runs").glob(f".{run_id}.*.tmp"):
        path.unlink(missing_ok=True)


def store_run(results: Path, record: Record, probabilities: "pd.DataFrame | None", model: bytes | None = None) -> None:
    """Store a run's record, its predictions and its model, in the place of those there are: all or nothing.

    All are written under other names first, the record last: once that is whole, whoever is killed in between leaves
    the rest to `remove_partial`.

    Args:
        results: the results root.
        record: as `write_record` takes it.
        probabilities: one row an image with the columns split, path, label; group, where images belong to patients;
            prob_<class> for each class and, in runs since these are stored, logit_<class>. Numbers are written so
            that reading them gives the same ones. None where the run has none.
        model: content of the file of its model; None where none is kept.
    """
    run_id = record["run_id"]
    digest = None
    if probabilities is not None:
        data = csv_text(probabilities).encode()
        digest = hashlib.sha256(data).hexdigest()
        write_atomic(_waiting(predictions_path(results, run_id)), data, private=True)
    digests: dict[str, Any] = {"predictions_sha256": digest}
    if model is not None:
        digests |= {"model_sha256": hashlib.sha256(model).hexdigest(), "model_bytes": len(model)}
        write_atomic(_waiting(model_path(results, run_id)), model, private=True)
    write_record(results, record | digests, _waiting)
    _put_in_place(results, run_id)


def half_replaced(results: Path) -> list[str]:
    """Runs whose new files are whole, but not all in their places: whoever stored them was killed."""
    ending = f".json{_WAITING}"
    return [path.name.removesuffix(ending) for path in (results / "runs").glob(f"*{ending}")]


def _put_in_place(results: Path, run_id: str) -> None:
    """Finishes `store_run` where it has written all of a run."""
    record, predictions = record_path(results, run_id), predictions_path(results, run_id)
    model = model_path(results, run_id)
    if not _waiting(record).exists():
        return
    new = parse_json(read_regular(_waiting(record)))
    if _waiting(predictions).exists():
        _waiting(predictions).replace(predictions)
    elif new["status"]["state"] != "ok":
        predictions.unlink(missing_ok=True)  # they are those of the record that goes
    if _waiting(model).exists():
        _waiting(model).replace(model)
    elif new.get("model_sha256") is None:
        model.unlink(missing_ok=True)
    _waiting(record).replace(record)


PREDICTIONS = ".predictions.csv"  # what ends the names of their files
_MODEL = ".model.safetensors"
_WAITING = ".whole"  # of files that are to take the place of others


def _waiting(path: Path) -> Path:
    return path.with_name(f"{path.name}{_WAITING}")


def write_record(results: Path, record: Record, place: Callable[[Path], Path] = lambda path: path) -> Path:
    """Store a record as `results/runs/<run_id>.json`, sealed; numbers that are not finite become null, as in JSON.

    Args:
        results: the results root.
        record: what it holds.
        place: where to write, from where it belongs.

    Raises:
        ValueError: the record does not follow the schema, which is a fault of this program.
        MachineError: the results folder cannot be written.
    """
    found = plain(record)
    try:
        check_content(RECORD, found, "record")
    except UserError as error:
        raise ValueError(str(error)) from error
    path = place(record_path(results, found["run_id"]))
    return write_atomic(path, sealed(found), private=True)  # what an error said may name an image


def read_record(path: Path) -> Record:
    """Read one record, without the digest of itself.

    Raises:
        MissingError: there is no such record.
        UserError: the file is no record of this schema, or it or that of its predictions is not what was stored.
    """
    record, damage = _read(path)
    if damage is not None:
        raise UserError(damage)
    return record


def _read(path: Path) -> tuple[Record, str | None]:
    """A record, and a line that says why it is not to be believed."""
    try:
        data = read_regular(path)
        record = parse_json(data)
        check_content(RECORD, record, "record")
        _check_id(record["run_id"])
        if f"{record['run_id']}.json" != path.name:
            raise ValueError(f"run_id must be the name of its file, got {record['run_id']!r}")
    except FileNotFoundError as error:
        message = f"record must exist, got {str(path)!r}: `bench.py list runs` names those there are"
        raise MissingError(message) from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"record must be readable, got {str(path)!r} ({reason}): delete it and run again") from error
    damage = _damage(path, data, record)
    record.pop(DIGEST, None)
    return record, damage


def _damage(path: Path, data: bytes, record: Record) -> str | None:
    """Why a record or its predictions are not what was stored."""
    if not is_sealed_as(data, record):
        return f"record must be what was stored, got {_edited(path)}"
    digest = record.get("predictions_sha256")
    if digest is None:
        return None
    predictions = path.with_name(f"{record['run_id']}{PREDICTIONS}")  # faster than by way of the results
    try:
        if hashlib.sha256(read_regular(predictions)).hexdigest() == digest:
            return None
    except FileNotFoundError:
        return f"predictions must be there, got no {str(predictions)!r}: run it again"
    except (OSError, UserError) as error:
        return f"predictions must be readable, got {str(predictions)!r} ({one_line(error)}): run it again"
    return f"predictions must be what was stored, got {_edited(predictions)}"


def _edited(path: Path) -> str:
    return f"{str(path)!r}, whose content has changed: run it again"


def _place_alone(record: Record, damage: str) -> Record:
    """What of a damaged record says where it belongs: none of its numbers is to be shown."""
    run, dataset = record["run"], record["run"].get("dataset") or {}
    kept = {name: run.get(name) for name in ("config", "method", "weights", "stopping")}
    kept["dataset"] = {name: dataset.get(name) for name in ("title", "folder", "synthetic")}
    whole = {name: record[name] for name in ("schema", "run_id", "environment")}
    return whole | {"status": {"state": DAMAGED, "message": damage}, "run": kept, "measurements": {}}


def record_path(results: Path, run_id: str) -> Path:
    """Where the record of a run lies."""
    return _stored(results, run_id, ".json")


def predictions_path(results: Path, run_id: str) -> Path:
    """Where the predictions of a run lie."""
    return _stored(results, run_id, PREDICTIONS)


def model_path(results: Path, run_id: str) -> Path:
    """Where the model of a run lies, while it is kept."""
    return _stored(results, run_id, _MODEL)


def kept_models(results: Path, beginning: str = "") -> list[str]:
    """Ids of the runs that have a model and begin so, sorted."""
    paths = (results / "runs").glob(f"[!.]*{_MODEL}")
    return sorted(path.name.removesuffix(_MODEL) for path in paths if path.name.startswith(beginning))


def load_records(results: Path) -> tuple[list[Record], list[str]]:
    """Read every record under `results/runs`, sorted by run id.

    Returns:
        The readable records, and one line for each file that is none or is not what was stored. The caller shows these
        lines and exits non-zero: a damaged file is never counted and never passed over in silence. Of a record that
        can be read, but is not to be believed, there is what says where it belongs, with the state `damaged`.
    """
    problems: list[str] = []
    return list(each_record(results, problems)), problems


def each_record(results: Path, problems: list[str], run_ids: Sequence[str] | None = None) -> Iterator[Record]:
    """The records of `load_records` one by one, as ten thousand at once take a gigabyte; adds to the problems.

    Where there are thousands, those are not read again that have not changed since they were believed.

    Args:
        results: the results root.
        problems: as `load_records` returns them.
        run_ids: of which, in their order; None for all.
    """
    paths = record_paths(results) if run_ids is None else [record_path(results, run_id) for run_id in run_ids]
    index = RecordIndex(results) if len(paths) >= LEAST else None
    for path in paths:
        try:
            record, damage = _read(path) if index is None else _read_by(index, path)
        except UserError as error:
            problems.append(str(error))
            continue
        if damage is not None:
            problems.append(damage)
            record = _place_alone(record, damage)
        yield record
    if index is not None:
        index.store(path.stem for path in (paths if run_ids is None else record_paths(results)))


def _read_by(index: RecordIndex, path: Path) -> tuple[Record, str | None]:
    """The same as `_read`, from the index where that has it; what is damaged is not kept there."""
    run_id = path.stem
    stamps = stamp(path), stamp(path.with_name(f"{run_id}{PREDICTIONS}"))
    known = index.get(run_id, *stamps)
    if known is not None:
        return known, None
    record, damage = _read(path)
    if damage is None:
        index.keep(run_id, *stamps, record)
    return record, damage


def record_paths(results: Path) -> list[Path]:
    """The files of all records, sorted by run id."""
    paths = (results / "runs").glob("[!.]*.json")
    return sorted(paths, key=lambda path: path.name)  # of ten thousand, comparing whole paths takes a second


def runs_by_cache(records: Iterable[Record]) -> dict[str, list[str]]:
    """Ids of runs by the name of the feature cache that they trained on."""
    users: dict[str, list[str]] = {}
    for record in records:
        preload = record["measurements"].get("preload")
        if preload:
            users.setdefault(preload["cache"], []).append(record["run_id"])
    return users


def _stored(results: Path, run_id: str, suffix: str) -> Path:
    _check_id(run_id)
    return results / "runs" / f"{run_id}{suffix}"


def _check_id(run_id: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_+=,@-][A-Za-z0-9._+=,@-]*", run_id):
        raise ValueError(f"run_id must be letters, digits and any of '._+=,@-', got {run_id!r}")


def plain(value: Any) -> Any:
    """A value as JSON has it; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a scalar of numpy or torch
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
