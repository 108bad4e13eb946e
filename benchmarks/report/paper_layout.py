"""The papers' comparison as md, csv and tex: published figures beside ours, commands for what is missing."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from benchmarks.analysis.summary import blocks, summary
from benchmarks.names import printable
from benchmarks.report.baselines import add_baselines
from benchmarks.report.captions import AUC_MARKS, CODE, INCIDENT, footnotes, protocol, spread, title
from benchmarks.report.latex import LATEX_PACKAGES, escape_latex, latex_table
from benchmarks.report.missing_runs import commands
from benchmarks.report.paper_table import PaperTable, beside_published, paper_columns, paper_tables, published_figures
from benchmarks.report.tables import escape_markdown, markdown_rows
from benchmarks.storage.csv_cells import csv_text
from benchmarks.storage.files import write_atomic

_HOW = (
    "Trainable: parameters that train, without the new head, in percent of all without it. Training: peak allocated "
    "GPU memory of the training phase, as the papers count it, the largest over datasets; Memory: of the whole run, "
    "preloading included. Then macro one-vs-rest AUC (%) on the test split of each dataset. PPE weighs the average by "
    "the trainable share; PME, training, by training memory against full fine-tuning's, as the papers do; PME by "
    "memory of the whole run. Best in bold, second best underlined, for each resolution. An empty cell was not run."
)
_PAIRS = {"trainable_percent": "Trainable (%)", "memory_mb": "Process memory (MiB)", "auc_percent": "Average AUC (%)"}
_PUBLISHED = (
    "Difference: ours less published. Memory: what the driver counts for the process in the training phase, as "
    "published; whole run: the same over all phases, preloading included. A "
    "published average and ours compare only where they are over the same datasets."
)
_MISSING = "What was not run, this would run (PATH: where a folder of yours lies; FILE: your weights)"
_SUITE = "python bench.py --suite paper"


def write_paper_tables(results: Path, frame: pd.DataFrame, published: bool, mix_code: bool = False) -> list[Path]:
    """Write paper.md, paper.csv and paper.tex to `results/tables`.

    Args:
        results: the results root.
        frame: the runs to show, as `records.runs_frame` gives them.
        published: whether to put the cited figures beside ours.
        mix_code: whether to average runs that different code has trained.

    Raises:
        MachineError: the folder cannot be written.
        MissingError: the published figures are not there.
    """
    papers = list(paper_tables(summary(frame, mix_code)))
    cited = published_figures() if published else None
    paired = [beside_published(paper, cited) if cited is not None else pd.DataFrame() for paper in papers]
    # Cited figures that no protocol of ours can stand beside are shown all the same, with the suite that fills them.
    nothing = cited is not None and not any(map(len, paired))
    alone = beside_published(None, cited) if cited is not None and nothing else pd.DataFrame()
    texts = {
        "paper.md": _markdown(papers, paired, alone),
        "paper.csv": csv_text(_csv(papers, paired, alone)),
        "paper.tex": _latex(papers, paired, alone),
    }
    return [write_atomic(results / "tables" / name, text.encode()) for name, text in texts.items()]


def _markdown(papers: Sequence[PaperTable], paired: Sequence[pd.DataFrame], alone: pd.DataFrame) -> str:
    parts = ["# Methods by datasets\n"]
    for paper, beside in zip(papers, paired, strict=True):
        parts += [
            f"## Protocol {paper.block['block'].iloc[0]}\n",
            f"{escape_markdown(_about(paper))}\n",
            markdown_rows(_with_chance(paper), paper_columns(paper.datasets)),
            *(f"{escape_markdown(note)}\n" for note in _notes(paper)),
        ]
        lines = commands(paper.block)
        if lines:
            parts += [f"{_MISSING}:\n", "```", *lines, "```\n"]
        if len(beside):
            parts += ["### Beside the published figures\n", _published_md(beside), f"{_PUBLISHED}\n"]
    if len(alone):
        parts += ["## Published, nothing here to stand beside it\n", _published_md(alone), f"{_PUBLISHED}\n"]
        parts += [f"{_MISSING}:\n", "```", _SUITE, "```\n"]
    return "\n".join([*parts, "## How to read\n", f"{_HOW}\n"])


def _about(paper: PaperTable) -> str:
    names = list(dict.fromkeys(title(block) for block in blocks(paper.block)))
    return f"{', '.join(names)}. {protocol(paper.block)}. {spread(paper.block)}."


def _with_chance(paper: PaperTable) -> pd.DataFrame:
    """The rows with that of answers that ignore the image below each resolution; nothing ranks it."""
    parts = []
    for _, group in paper.rows.groupby("resolution", sort=False):
        chance = {name: group[name].iloc[0] for name in ("block", "resolution", "effective_resolution")}
        chance |= {"method": "chance", "label": "Chance, majority class (baselines)", "state": "baseline"}
        chance |= {f"auc {name}": 0.5 for name in paper.datasets} | {f"state {name}": "ok" for name in paper.datasets}
        chance |= {f"seeds {name}": "1 of 1" for name in paper.datasets} | {"auc_mean": 0.5}
        chance |= {f"mark {name}": "" for name in paper.datasets}
        parts += [group.astype("object"), pd.DataFrame([chance], columns=group.columns, dtype="object")]
    return pd.concat(parts, ignore_index=True)


def _notes(paper: PaperTable) -> list[str]:
    """What the averages run over, what the majority class scores, and the footnotes of every dataset."""
    notes = []
    for resolution, names in paper.averaged.items():
        over = ", ".join(names) if names else "no dataset, as none has every method"
        notes.append(f"Average at {resolution} px: over {over}.")
    majority = add_baselines(paper.block)
    majority = majority[majority["method"] == "majority"].drop_duplicates("dataset_label")
    shares = [f"{row['dataset_label']} {100 * row['accuracy_mean']:.1f} %" for _, row in majority.iterrows()]
    if shares:
        notes.append(f"Accuracy of always answering the majority class: {', '.join(shares)}; its AUC is 50.")
    found: dict[str, None] = {}
    for block in blocks(paper.block):
        for note in footnotes(block):
            where = f" {block['dataset_label'].iloc[0]}," if len(paper.datasets) > 1 else ""
            mark = note[0] if note.startswith((INCIDENT, CODE, *AUC_MARKS)) else ""
            found[f"{mark}{where}{note.removeprefix(mark)}" if mark else note] = None
    return [*notes, *found]


def _published_rows(beside: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    headers = ["Resolution", "Method"]
    for name in _PAIRS.values():
        headers += [name, "published", "difference"]
    headers.insert(headers.index(_PAIRS["memory_mb"]) + 3, "whole run (MiB)")
    headers += ["Ours over", "Published over", "Source"]
    rows = []
    for _, row in beside.iterrows():
        cells = [f"{row['resolution']} px", str(row["label"])]
        for name in _PAIRS:
            digits = 0 if name == "memory_mb" else 2
            mark = "†" if name == "memory_mb" and row["memory_source"] == "predicted" else ""
            cells += [_shown(row[f"{name}_ours"], digits) + mark, _shown(row[f"{name}_published"], digits)]
            cells.append(_shown(row[f"{name}_difference"], digits, sign="+"))
            cells += [_shown(row["whole_run_mb_ours"], 0)] * (name == "memory_mb")
        rows.append([*cells, *(str(row[name]) for name in ("averaged", "datasets", "source"))])
    return headers, rows


def _shown(value: float | None, digits: int, sign: str = "") -> str:
    if value is None or pd.isna(value):
        return ""
    return f"{round(value, digits) + 0.0:{sign},.{digits}f}".replace("-", "−")  # + 0.0: no minus before zero


def _published_md(beside: pd.DataFrame) -> str:
    headers, rows = _published_rows(beside)
    escaped = [[escape_markdown(cell) for cell in row] for row in rows]
    align = ["left", "left", *["right"] * 10, "left", "left", "left"]
    return tabulate(escaped, headers, tablefmt="pipe", colalign=align, disable_numparse=True) + "\n"


def _csv(papers: Sequence[PaperTable], paired: Sequence[pd.DataFrame], alone: pd.DataFrame) -> pd.DataFrame:
    """One row a protocol, resolution and method; the published figures in columns of their own beside ours."""
    parts = []
    keys = ["method", "label", "resolution"]
    for paper, beside in zip(papers, paired, strict=True):
        apart = [f"{source}_{part}_bytes" for source in ("measured", "predicted") for part in ("whole", "train")]
        rows = paper.rows.drop(columns=["phase", *apart])
        rows = rows.drop(columns=[f"mark {name}" for name in paper.datasets])
        rows["averaged_over"] = [", ".join(paper.averaged[side]) for side in rows["resolution"]]
        rows["protocol"] = protocol(paper.block)
        if len(beside):
            rows = rows.merge(beside.drop(columns=["averaged"]), on=keys, how="outer", sort=False)
        parts.append(rows.assign(command="; ".join(commands(paper.block))))
    if len(alone):
        parts.append(alone.drop(columns=["averaged"]).assign(command=_SUITE))
    return pd.concat([part.astype("object") for part in parts], ignore_index=True)


def _latex(papers: Sequence[PaperTable], paired: Sequence[pd.DataFrame], alone: pd.DataFrame) -> str:
    parts = [LATEX_PACKAGES]
    for paper, beside in zip(papers, paired, strict=True):
        name = f"paper-{paper.block['block'].iloc[0]}"
        caption = f"{_about(paper)} {_HOW}"
        parts.append(latex_table(_with_chance(paper), paper_columns(paper.datasets), caption, name, _notes(paper)))
        parts += [f"% not run: {printable(line)}" for line in commands(paper.block)]
        if len(beside):
            parts.append(_published_tex(beside, f"{name}-published"))
    if len(alone):
        parts += [_published_tex(alone, "paper-published"), f"% not run: {_SUITE}"]
    return "\n".join([*parts, ""])


def _published_tex(beside: pd.DataFrame, name: str) -> str:
    headers, rows = _published_rows(beside)
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{Beside the published figures. {escape_latex(_PUBLISHED)}}}",
        rf"\label{{tab:{name}}}",
        r"\begin{tabular}{llrrrrrrrrrrlll}",
        r"\toprule",
        *(" & ".join(map(escape_latex, cells)) + r" \\" for cells in [headers]),
        r"\midrule",
        *(" & ".join(map(escape_latex, cells)) + r" \\" for cells in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join([*lines, ""])
