"""What stored test probabilities say about AUC: read and resampled once, then kept for the next table.

Resampling takes milliseconds a run, up to a second with thousands of images, and tables are made of thousands of runs.
What it gave is kept in `<results>/.statistics`, one for each file of probabilities, named by its content and the number
of resamples; the folder may be deleted.
"""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from safetensors.numpy import load, save

from benchmarks.analysis.statistics import (
    NUM_RESAMPLES,
    Floats,
    Integers,
    auc_of_each_resample,
    bootstrap_p,
    delong_p,
    macro_auc,
    percentile_interval,
    placements,
)
from benchmarks.errors import MachineError, UserError
from benchmarks.storage.files import write_atomic

_LAYOUT = 2  # of the kept files
_TOLERANCE = 1e-6  # between a record's AUC and that of its probabilities; they are written in full


class Evidence(NamedTuple):
    """The test probabilities of a run, or the mean over the seeds of a cell.

    images: digest of the test images with their labels and groups. What agrees in it was resampled alike.
    unit: what was drawn, `image` or `group`; num_units: how many there are.
    auc: on the whole test split.
    resampled: on each bootstrap resample; empty where a class is too rare to resample.
    labels, placements: for DeLong's test; empty unless there are two classes and images were drawn.
    """

    images: str
    unit: str
    num_units: int
    auc: float
    resampled: Floats
    labels: Integers
    placements: Floats


class Comparison(NamedTuple):
    """How the AUC of one model differs from that of another on the same images.

    difference: first less second; low, high: its 95 % bootstrap interval; p: two-sided, not corrected;
    test: `DeLong` or `bootstrap`.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str


def load_evidence(
    results: Path, frame: pd.DataFrame, keep: Path | None = None
) -> tuple[dict[str, Evidence], list[str]]:
    """The evidence of every finished run that has probabilities.

    Args:
        results: the results root.
        frame: its runs, as `records.runs_frame` gives them.
        keep: the results root under which to keep what was resampled, `results` by default.

    Returns:
        The evidence by run id, and one line for each file that is damaged or belies its record. The caller shows
        these lines and exits non-zero.

    Raises:
        MachineError: the folder cannot be written.
    """
    evidence, problems = {}, []
    for run_id, auc in frame.loc[(frame["state"] == "ok") & frame["auc"].notna(), ["run_id", "auc"]].to_numpy():
        path = results / "runs" / f"{run_id}.predictions.csv"
        try:
            found = _kept(path.read_bytes(), (keep or results) / ".statistics")
            if abs(found.auc - auc) > _TOLERANCE:
                raise UserError(f"they give an AUC of {found.auc:.6f}, the record says {auc:.6f}")
        except FileNotFoundError:
            continue
        except MachineError:  # no fault of the file: the folder where resamples are kept cannot be written
            raise
        except ValueError as error:
            reason = " ".join(str(error).split())
            problems.append(f"predictions must be those of their record, got {str(path)!r} ({reason}): run it again")
        else:
            evidence[run_id] = found
    return evidence, problems


def average(runs: Sequence[Evidence | None]) -> Evidence | None:
    """The evidence for the mean AUC over seeds, as tables show it.

    All seeds are tested on the same images, so these are resampled, for all seeds at once, and the AUCs of the seeds
    are averaged: the interval is one of the number shown. Pooling the seeds would count each image several times over,
    and averaging their probabilities would judge an ensemble that nobody trained. What training anew would change is
    the standard deviation over seeds, and not in here.

    Returns:
        None without runs, or when one of them has no probabilities or others' images.
    """
    known = [run for run in runs if run is not None]
    if not known or len(known) < len(runs) or len({run.images for run in known}) > 1:
        return None
    return known[0]._replace(
        auc=float(np.mean([run.auc for run in known])),
        resampled=np.mean([run.resampled for run in known], axis=0),
        placements=np.mean([run.placements for run in known], axis=0),  # the AUC is linear in them
    )


def interval(evidence: Evidence) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of the AUC; None where a class is too rare to resample."""
    return percentile_interval(evidence.resampled) if len(evidence.resampled) else None


def compare(first: Evidence | None, second: Evidence | None) -> Comparison | None:
    """Compares two models on the same images: DeLong's test for two classes, else a paired bootstrap.

    DeLong takes images to be independent; where they belong to patients, groups are resampled instead.

    Returns:
        None where one has no evidence, or images differ, or a class is too rare.
    """
    if first is None or second is None or first.images != second.images or not len(first.resampled):
        return None
    differences = first.resampled - second.resampled
    p = delong_p(first.labels, first.placements, second.placements) if len(first.labels) else None
    test = "bootstrap" if p is None else "DeLong"
    return Comparison(
        first.auc - second.auc, *percentile_interval(differences), bootstrap_p(differences) if p is None else p, test
    )


def read_evidence(data: bytes) -> Evidence:
    """Evidence from the content of a file of probabilities.

    Args:
        data: csv with the columns split, path, label, prob_<class> and, optionally, group; images that share a group
            are drawn together, those without one alone.

    Raises:
        UserError: it is not such a file, or its test split lacks a class.
    """
    header, rows = _read_csv(data)
    absent = [name for name in ("split", "path", "label") if name not in header]
    if absent:
        raise UserError(f"columns must be split, path, label, prob_<class>, got none called {absent[0]}")
    place = {name: header.index(name) for name in header}
    test = sorted((row for row in rows if row[place["split"]] == "test"), key=itemgetter(place["path"]))
    paths, names = ([row[place[column]] for row in test] for column in ("path", "label"))
    classes = [name.removeprefix("prob_") for name in header if name.startswith("prob_")]
    if sorted(classes) != sorted(set(names)) or len(classes) < 2:
        raise UserError("the labels of the test split must be the classes that have a prob_<class>, got others")
    scores = np.array([[float(row[place[f"prob_{name}"]]) for name in classes] for row in test])
    if not np.isfinite(scores).all():
        raise UserError("probabilities must be finite, got others")
    labels = np.array([classes.index(name) for name in names], dtype=np.int64)
    groups = [row[place["group"]] if "group" in place else "" for row in test]
    number: dict[str | int, int] = {}
    units = np.array([number.setdefault(group or i, len(number)) for i, group in enumerate(groups)], dtype=np.int64)
    num_units = len(number)
    resampled = auc_of_each_resample(labels, scores, units)
    two = len(classes) == 2 and num_units == len(test)
    identity = [paths, names, classes, units.tolist()]
    return Evidence(
        images=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        unit="image" if num_units == len(test) else "group",
        num_units=num_units,
        auc=macro_auc(labels, scores),
        resampled=np.empty(0) if resampled is None else resampled,
        labels=labels if two else np.empty(0, dtype=np.int64),
        placements=placements(labels, scores) if two else np.empty(0),
    )


def _read_csv(data: bytes) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a csv file; pandas takes several times longer for so few."""
    try:
        lines = [row for row in csv.reader(io.StringIO(data.decode(), newline="")) if row]
    except csv.Error as error:
        raise UserError(str(error)) from error
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if any(len(row) != len(header) for row in rows):
        raise UserError("rows must have a value for each column, got others")
    return header, rows


def _kept(data: bytes, folder: Path) -> Evidence:
    """The evidence of a file of probabilities, from the folder where it was resampled before."""
    path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}-{NUM_RESAMPLES}-{_LAYOUT}"
    try:
        return _unpack(path.read_bytes())
    except (OSError, ValueError):  # none there, or a damaged one
        evidence = read_evidence(data)
        write_atomic(path, _pack(evidence), sync=False)
        return evidence


def _pack(evidence: Evidence) -> bytes:
    """As tensors, which are read in no time, text as its bytes; the digest of all that comes first."""
    texts = {name: np.frombuffer(getattr(evidence, name).encode(), np.uint8) for name in ("images", "unit")}
    numbers = {"num_units": np.array([evidence.num_units]), "auc": np.array([evidence.auc])}
    arrays = {name: getattr(evidence, name) for name in ("resampled", "labels", "placements")}
    content = bytes(save(texts | numbers | arrays))
    return hashlib.sha256(content).digest() + content


def _unpack(data: bytes) -> Evidence:
    digest, content = data[:32], data[32:]
    if hashlib.sha256(content).digest() != digest:
        raise UserError("content must be what was written, got other bytes")
    kept = load(content)
    images, unit = (bytes(kept[name]).decode() for name in ("images", "unit"))
    num_units, auc = int(kept["num_units"][0]), float(kept["auc"][0])
    return Evidence(images, unit, num_units, auc, kept["resampled"], kept["labels"], kept["placements"])
