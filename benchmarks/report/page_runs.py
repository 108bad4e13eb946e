"""The runs of the page: their frame, and a part for each place, with their records, results of classes and curves.

Of thousands of runs a place's part is kept in `<results>/.index` until one of its files changes: making it takes longer
than all else of the page. What is kept may be deleted at any time.
"""

import contextlib
import hashlib
import json
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic_core import from_json

from benchmarks.analysis.curves import load_curves
from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.influence import Integers
from benchmarks.records.frame import load_frame, runs_frame
from benchmarks.records.index import FOLDER, LEAST
from benchmarks.records.kept_frame import state_of
from benchmarks.records.private import anonymous, private
from benchmarks.records.record import each_record, record_path
from benchmarks.records.schema import DAMAGED, Record
from benchmarks.report.page_curves import page_curves
from benchmarks.report.page_parts import pack
from benchmarks.storage.files import read_disposable, write_disposable

_MACHINE = ("device", "host", "host_id", "driver", "torch", "timm", "peft", "python")
_WAITING = 2  # parts that are packed while the next is read


class Origins(NamedTuple):
    """Where records come from.

    machines: how many come from each machine and code version, as JSON. latest: when the last was started, or empty.
    """

    machines: Counter[str]
    latest: str


class Part(NamedTuple):
    """A part as `page_parts.pack` makes it, and where its records come from."""

    data: bytes
    origins: Origins


def page_frame(results: Path, nameless: bool) -> tuple[pd.DataFrame, list[str]]:
    """The frame of all runs, and a line for each record that cannot be read or is damaged.

    Args:
        results: The results root.
        nameless: Whether to leave out what tells machine and user.
    """
    if not nameless:
        return load_frame(results)
    problems: list[str] = []
    return runs_frame(map(anonymous, each_record(results, problems))), problems


def make_parts(
    results: Path,
    frame: pd.DataFrame,
    rows: Sequence[int | None],
    parts: Sequence[str],
    evidence: Mapping[str, Evidence],
    nameless: bool,
) -> tuple[dict[str, Part], list[str]]:
    """The parts of the page.

    Args:
        results: The results root.
        frame: Its runs.
        rows, parts: Of each run the row of the table that counts it, and the name of its part.
        evidence: By run id.
        nameless: Whether to leave out what tells machine and user.

    Returns:
        By name, and a line for each record that has been damaged since the frame was made.
    """
    runs = frame[["run_id", "state", "predictions_sha256"]].assign(row=pd.Series(rows, frame.index, dtype="object"))
    members = {str(part): own.sort_values("run_id") for part, own in runs.groupby(pd.Series(parts, frame.index))}
    are_kept = len(frame) >= LEAST and not nameless
    keys = {part: _key(results, own, evidence) if are_kept else None for part, own in members.items()}
    found = {part: kept for part, key in keys.items() if key and (kept := _read(results, part, key))}
    problems: list[str] = []
    missing = {part: own for part, own in members.items() if part not in found}
    for part, made in _made(results, missing, evidence, nameless, problems):
        found[part] = made
        key = keys[part]
        if key is not None and not problems:
            _keep(results, part, key, made)
    if are_kept:
        _forget(results, members)
    return {part: found[part] for part in members if part in found}, problems


def origins_of(records: Sequence[Record], kind: str) -> Origins:
    """Where records come from; of measured memory, where `kind` is not `runs`, they hold no run."""
    machines: Counter[str] = Counter()
    latest = ""
    for record in records:
        run = record.get("run", record)
        code = run.get("code") or {}
        machine = {
            "environment": {name: record.get("environment", {}).get(name) for name in _MACHINE},
            "code": {name: code.get(name) for name in ("commit", "dirty")},
            "kind": kind,
        }
        machines[json.dumps(machine)] += 1
        latest = max(latest, run.get("started") or "")
    return Origins(machines, latest)


def _made(
    results: Path,
    members: Mapping[str, pd.DataFrame],
    evidence: Mapping[str, Evidence],
    nameless: bool,
    problems: list[str],
) -> Iterator[tuple[str, Part]]:
    """Parts from the records of their runs, one by one: ten thousand at once take a gigabyte.

    They are packed in threads of their own, as compressing takes half of the time, and no part of Python.
    """
    part_of = {run_id: part for part, own in members.items() for run_id in own["run_id"]}
    curves = load_curves(results, pd.concat(list(members.values()))) if members else {}
    records = each_record(results, problems, list(part_of))
    waiting: deque[tuple[str, Origins, Future[bytes]]] = deque()
    with ThreadPoolExecutor(_WAITING) as pool:
        for part, own in groupby(records, key=lambda record: part_of[record["run_id"]]):
            runs = members[part]
            contents = {record["run_id"]: (anonymous if nameless else private)(record) for record in own}
            classes = {name: class_results(evidence[name]) for name in contents if name in evidence}
            drawn = page_curves(curves, runs["run_id"], list(runs["row"]))
            origins = origins_of(list(contents.values()), "runs")
            waiting.append((part, origins, pool.submit(pack, contents, classes, drawn)))
            if len(waiting) > _WAITING:
                yield _packed(*waiting.popleft())
        while waiting:
            yield _packed(*waiting.popleft())


def _packed(part: str, origins: Origins, packed: Future[bytes]) -> tuple[str, Part]:
    return part, Part(packed.result(), origins)


def _key(results: Path, runs: pd.DataFrame, evidence: Mapping[str, Evidence]) -> str | None:
    """A digest of all that a part is made of; None where a run of it is damaged, or its files have just changed."""
    state = state_of([record_path(results, run_id) for run_id in runs["run_id"]])
    if state is None or (runs["state"] == DAMAGED).any():
        return None
    has_evidence = [run_id in evidence for run_id in runs["run_id"]]
    return hashlib.sha256(json.dumps([_CODE, state, list(runs["row"]), has_evidence]).encode()).hexdigest()


def _read(results: Path, part: str, key: str) -> Part | None:
    data = read_disposable(_path(results, part))
    if data is None:
        return None
    start = data.index(b"\n") + 1
    head = from_json(data[:start])
    return Part(data[start:], Origins(Counter(head["machines"]), head["latest"])) if head["key"] == key else None


def _keep(results: Path, part: str, key: str, made: Part) -> None:
    head = {"key": key, "machines": made.origins.machines, "latest": made.origins.latest}
    write_disposable(_path(results, part), json.dumps(head).encode() + b"\n" + made.data, "results", private=True)


def _forget(results: Path, parts: Collection[str]) -> None:
    """Removes what was kept of places of which nothing is stored any more."""
    kept = {_path(results, part) for part in parts}
    for path in (results / FOLDER).glob("page-*"):
        if path not in kept:
            with contextlib.suppress(OSError):  # in a folder that may only be read
                path.unlink()


def _path(results: Path, part: str) -> Path:
    return results / FOLDER / f"page-{part}"


def _code_digest() -> str:
    """Of the code that makes a part of records, beside that which makes a frame of them."""
    rooms = Path(__file__).parent, Path(__file__).parents[1] / "analysis"
    paths = [path for room in rooms for path in sorted(room.glob("*.py"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


_CODE = _code_digest()


def class_results(evidence: Evidence) -> dict[str, Any]:
    """Test results of each class, or of each finding that can be scored: what an image is called counts.

    Returns:
        `classes`: names; `images`: of each, those that have it; `confusion`: counts, a row for each true class, a
        column for each predicted one, None of findings; `sensitivity`, `specificity` and `precision` of each (0-1),
        None where there is nothing to divide by.
    """
    counts = evidence.confusion
    if counts.ndim == 3:  # of each finding alone
        hits, total = counts[:, 1, 1], counts.sum(axis=(1, 2))
        true, called = counts[:, 1].sum(axis=1), counts[:, :, 1].sum(axis=1)
    else:
        hits, true, called, total = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    return {
        **{"classes": evidence.classes, "images": true.tolist()},
        "confusion": counts.tolist() if counts.ndim == 2 else None,
        "sensitivity": _ratios(hits, true),
        "specificity": _ratios(total - true - called + hits, total - true),
        "precision": _ratios(hits, called),
    }


def _ratios(above: Integers, below: Integers) -> list[float | None]:
    """To six digits, as all numbers of the page."""
    return [float(f"{a / b:.6g}") if b else None for a, b in zip(above.tolist(), below.tolist(), strict=True)]
