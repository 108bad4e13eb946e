"""The comparison of the FPT papers from stored results: methods x datasets at each resolution, with their average."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.analysis.summary import (
    across_datasets,
    method_rank,
    performance_memory_efficiency,
    performance_parameter_efficiency,
)
from benchmarks.errors import MissingError
from benchmarks.report.baselines import of_methods
from benchmarks.report.captions import BAD_STATES, CODE, INCIDENT, LOST, auc_marks
from benchmarks.report.columns import COLUMNS, without_auc
from benchmarks.report.entries import Column, Entry

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"
# As papers name backbones, and how timm begins the name of the same architecture.
_TIMM = {"ViT-S/16": "vit_small_patch16", "ViT-B/16": "vit_base_patch16", "ViT-L/16": "vit_large_patch16"}
_SOURCES = ("measured", "predicted")
_MIB = 2**20
_BY_DATASET = ("auc", "sd", "state", "seeds", "complete", "unconverged", "mark")  # columns of `PaperTable.rows`


class PaperTable(NamedTuple):
    """One protocol in the papers' layout.

    block: the rows of the summary it is made of, all datasets of the protocol, labelled across them.
    datasets: their labels, the columns.
    rows: one a resolution and method; columns as `paper_tables` says.
    averaged: by resolution, the datasets that its average runs over.
    """

    block: pd.DataFrame
    datasets: list[str]
    rows: pd.DataFrame
    averaged: dict[int, list[str]]


def paper_tables(table: pd.DataFrame) -> Iterator[PaperTable]:
    """The papers' comparison for each protocol of a summary; protocols are never mixed.

    Every method of a protocol has a row at each of its resolutions, run or not. Columns: block, resolution,
    effective_resolution, method, label, state (`ok` with any AUC); percent; memory_bytes (of the whole run, the
    largest over datasets), memory_source, process_bytes, and the same of training with `train_` before it;
    `auc <dataset>`, `sd <dataset>`, `state <dataset>` (missing where it was not run), `seeds <dataset>` (finished of
    asked), `complete <dataset>` and `unconverged <dataset>` (as in the summary), `mark <dataset>`; auc_mean (the
    average), complete (whether all it runs over are), ppe, pme and train_pme of it, and the sources of the last two.

    The average runs over the datasets in which every method that has a result at that resolution has one, so that all
    averages of one resolution are over the same datasets.
    """
    for _, block in table[of_methods(table)].groupby("block", sort=False):
        labelled = block.assign(label=across_datasets(block))
        datasets = list(dict.fromkeys(map(str, labelled["dataset_label"])))
        pairs = sorted(
            {(str(method), str(label)) for method, label in labelled[["method", "label"]].to_numpy()},
            key=lambda pair: (method_rank(pair[0]), pair[1]),
        )
        rows: list[dict[str, Any]] = []
        averaged: dict[int, list[str]] = {}
        for resolution, group in labelled.groupby("resolution"):
            side = int(str(resolution))
            averaged[side] = _complete(group, datasets)
            page = [_row(group, method, label, datasets, averaged[side]) for method, label in pairs]
            first = {"block": block["block"].iloc[0], "resolution": side}
            first["effective_resolution"] = group["effective_resolution"].dropna().max()
            rows += [first | row | _pme(row, page) for row in page]
        yield PaperTable(labelled, datasets, pd.DataFrame(rows), averaged)


def _complete(group: pd.DataFrame, datasets: list[str]) -> list[str]:
    finished = group[group["auc_mean"].notna()]
    asked = finished["label"].nunique()
    return [
        name for name in datasets if finished.loc[finished["dataset_label"] == name, "label"].nunique() == asked > 0
    ]


def _row(group: pd.DataFrame, method: str, label: str, datasets: list[str], averaged: list[str]) -> dict[str, Any]:
    cells = group[group["label"] == label]
    row: dict[str, Any] = {"method": method, "label": label, "phase": None}
    row["percent"] = cells["percent"].dropna().max()
    row |= _memory(cells, "whole", "") | _memory(cells, "train", "train_")
    for name in datasets:
        for _, cell in cells[cells["dataset_label"] == name].iterrows():
            row |= {f"auc {name}": cell["auc_mean"], f"sd {name}": cell["auc_sd"], f"state {name}": cell["state"]}
            row[f"seeds {name}"] = f"{cell['seeds_ok']} of {cell['seeds_asked']}"
            row |= {f"{part} {name}": cell[part] for part in ("complete", "unconverged")}
            failed = sum(cell[f"seeds_{state}"] for state in BAD_STATES)
            mixed = CODE if pd.notna(cell["code_mix"]) else ""
            row[f"mark {name}"] = f"{mixed}{auc_marks(cell)}{INCIDENT if failed else ''}"
        row = {f"{part} {name}": None for part in _BY_DATASET} | row
    states = [row[f"state {name}"] for name in datasets if row[f"state {name}"]]
    row["state"] = "ok" if "ok" in states else states[0] if states else None
    if "oom" in states:
        row["phase"] = cells.loc[cells["state"] == "oom", "phase"].iloc[0]
    scores = [row[f"auc {name}"] for name in averaged]
    full = averaged and row["state"] == "ok" and not any(pd.isna(score) for score in scores)
    row["auc_mean"] = sum(scores) / len(scores) if full else None
    row["complete"] = all(row[f"complete {name}"] for name in averaged)
    row["ppe"] = None
    if full and not pd.isna(row["percent"]):
        row["ppe"] = performance_parameter_efficiency(row["auc_mean"], row["percent"] / 100)
    return row


def _memory(cells: pd.DataFrame, part: str, prefix: str) -> dict[str, Any]:
    """The largest over datasets, of the whole run or of training; as in each cell, measured wherever there is one."""
    largest = {f"{source}_{part}_bytes": cells[f"{source}_{part}_bytes"].dropna().max() for source in _SOURCES}
    sources = set(cells[f"{prefix}memory_source"].dropna())
    source = next((source for source in _SOURCES if source in sources), None)
    process = cells.loc[cells[f"{prefix}memory_source"] == source, f"{prefix}process_bytes"].dropna()
    return largest | {
        f"{prefix}memory_bytes": largest[f"{source}_{part}_bytes"] if source else None,
        f"{prefix}memory_source": source,
        f"{prefix}process_bytes": process.max() if len(process) else None,
    }


def _pme(row: dict[str, Any], page: list[dict[str, Any]]) -> dict[str, Any]:
    """PME of an average, by the whole run and by training, from two measurements or two predictions."""
    found: dict[str, Any] = {}
    full = [other for other in page if other["method"] == "full"]
    for part, name in (("whole", "pme"), ("train", "train_pme")):
        found |= {name: None, f"{name}_source": None}
        for source in _SOURCES if row["auc_mean"] is not None else ():
            memory = row[f"{source}_{part}_bytes"]
            reference = [value for other in full if not pd.isna(value := other[f"{source}_{part}_bytes"])]
            if reference and not pd.isna(memory):
                score = performance_memory_efficiency(row["auc_mean"], memory, max(reference))
                found |= {name: score, f"{name}_source": source}
                break
    return found


def paper_columns(datasets: list[str]) -> list[Column]:
    """The columns to show."""
    known = {column.header: column for column in COLUMNS}
    costs = [known[name] for name in ("Method", "Trainable (%)", "Training (MiB)", "Memory (MiB)")]
    aucs = [Column(name, "", 1, _auc(name)) for name in datasets]
    scores = [known[name] for name in ("PPE", "PME, training", "PME")]
    shown = [*costs, *aucs, Column("Average", "", 1, _average), *scores]
    published = {"Training (MiB)": -1, "PME, training": 1}  # ranked here, too
    shown = [column._replace(better=published.get(column.header, column.better)) for column in shown]
    # Here a dash would read as a result: what was not run is empty.
    return [column._replace(entry=_empty_for_dash(column.entry)) for column in shown]


def _auc(name: str) -> Callable[[pd.Series], Entry]:
    def entry(row: pd.Series) -> Entry:
        state = row[f"state {name}"]
        if pd.isna(state):
            return Entry("")
        if state != "ok":
            return without_auc(state, LOST in row[f"mark {name}"])
        if pd.isna(row[f"auc {name}"]):
            return Entry("–", row[f"mark {name}"])
        spread = "" if pd.isna(row[f"sd {name}"]) else f" ± {100 * row[f'sd {name}']:.2f}"
        done, asked = row[f"seeds {name}"].split(" of ")
        seeds = "" if done == asked else f" ({done} of {asked})"
        text = f"{100 * row[f'auc {name}']:.2f}{spread}{seeds}"
        return Entry(text, row[f"mark {name}"], competes=row[f"complete {name}"])

    return entry


def _average(row: pd.Series) -> Entry:
    return Entry("" if pd.isna(row["auc_mean"]) else f"{100 * row['auc_mean']:.2f}", competes=row["complete"])


def _empty_for_dash(shown: Callable[[pd.Series], Entry]) -> Callable[[pd.Series], Entry]:
    def entry(row: pd.Series) -> Entry:
        found = shown(row)
        return Entry("") if found.text == "–" and not found.mark else found

    return entry


def published_figures(folder: Path = PUBLISHED) -> pd.DataFrame:
    """The cited figures.

    Returns:
        method, title, backbone, resolution, datasets, trainable_percent, memory_mb, auc_percent and source.

    Raises:
        MissingError: there are none.
    """
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise MissingError(f"published figures must lie in {str(folder)!r}, got none: check out results/published")
    return pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)


def beside_published(paper: PaperTable | None, published: pd.DataFrame) -> pd.DataFrame:
    """Cited figures and ours for the same method, resolution and backbone, with the difference: ours less published.

    Args:
        paper: ours; None pairs every cited figure with nothing.
        published: as `published_figures` gives them.

    Returns:
        A row a cited figure: method, label, resolution, backbone, datasets (published), averaged (ours);
        {trainable_percent,memory_mb,auc_percent}_published, _ours and _difference; source. Ours for memory is the
        process's in training as the driver reports it, in MiB, as published; memory_source says whether measured or
        predicted; whole_run_mb_ours is that of the whole run.
        Empty where none is of this backbone and a resolution of ours.
    """
    rows = []
    for _, cited in published.iterrows():
        ours = None
        if paper is not None:
            prefix = _TIMM.get(str(cited["backbone"]), str(cited["backbone"]))
            if not str(paper.block["backbone"].iloc[0]).startswith(prefix):
                continue
            if cited["resolution"] not in paper.averaged:
                continue
            found = paper.rows[
                (paper.rows["method"] == cited["method"]) & (paper.rows["resolution"] == cited["resolution"])
            ]
            ours = found.iloc[0] if len(found) else None
        row = {name: cited[name] for name in ("method", "resolution", "backbone", "datasets", "source")}
        row |= {"label": cited["title"], "memory_source": None, "averaged": "", "whole_run_mb_ours": None}
        values: dict[str, float | None] = dict.fromkeys(("trainable_percent", "memory_mb", "auc_percent"))
        if ours is not None:
            row |= {"label": ours["label"], "memory_source": ours["train_memory_source"]}
            row["averaged"] = ", ".join(paper.averaged[int(cited["resolution"])] if paper is not None else [])
            values["trainable_percent"] = _number(ours["percent"])
            row["whole_run_mb_ours"] = _number(ours["process_bytes"], 1 / _MIB)
            values["memory_mb"] = _number(ours["train_process_bytes"], 1 / _MIB)
            values["auc_percent"] = _number(ours["auc_mean"], 100)
        for name, value in values.items():
            cited_value = _number(cited[name])
            known = value is not None and cited_value is not None
            row |= {f"{name}_published": cited_value, f"{name}_ours": value}
            row[f"{name}_difference"] = value - cited_value if known else None  # type: ignore[operator]
        rows.append(row)
    return pd.DataFrame(rows)


def _number(value: Any, factor: float = 1) -> float | None:
    return None if pd.isna(value) else float(value) * factor
