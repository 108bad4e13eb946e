"""Tables of single findings: each method's AUC in each, and where it differs from full fine-tuning or from the best."""

from collections.abc import Iterator

import pandas as pd
from tabulate import tabulate

from benchmarks.analysis.inference import LEVEL
from benchmarks.choices import FEW_UNITS

MARK = "∗"
_BLOCK = ["dataset_label", "block", "resolution"]


def finding_sections(table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Of each dataset, protocol and resolution a heading, a markdown table, and what is to be said of it.

    Args:
        table: As `analysis.findings.finding_table` gives it.
    """
    for (dataset, block, resolution), group in table.groupby(_BLOCK, sort=False, dropna=False):
        yield f"{dataset} at {resolution} px, protocol {block}", _rows(group), _said(group)


def _rows(group: pd.DataFrame) -> str:
    labels = list(dict.fromkeys(group["label"]))
    scored = group[group["auc_mean"].notna()]
    rows = []
    for finding, own in scored.groupby("finding", sort=False):
        entries = {row["label"]: _entry(row) for _, row in own.iterrows()}
        first = own.iloc[0]
        rows.append([finding, f"{first['num_with']:,}", *(entries.get(label, "–") for label in labels)])
    headers = ["Finding", "Images with it", *(f"{label}, AUC (%) ↑" for label in labels)]
    align = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True) + "\n"


def _entry(row: pd.Series) -> str:
    ends = "" if pd.isna(row["auc_low"]) else f" ({100 * row['auc_low']:.1f} to {100 * row['auc_high']:.1f})"
    mark = MARK if not pd.isna(row["p_holm"]) and row["p_holm"] < LEVEL else ""
    return f"{100 * row['auc_mean']:.2f}{mark}{ends}"


def _said(group: pd.DataFrame) -> str:
    said = ["Means over seeds, in brackets the 95 % interval over images (patients, where they are known) and seeds."]
    references = group["reference"].dropna().unique()
    if len(references):
        said.append(
            f"{MARK} differs from {references[0]} in this finding: p under {LEVEL} (DeLong, with seeds), by Holm over "
            "the findings of the method."
        )
    unscored = list(dict.fromkeys(group.loc[group["auc_mean"].isna(), "finding"]))
    if unscored:
        said.append(
            f"Not scored, as fewer than {FEW_UNITS} test images have them or fewer do not: {', '.join(unscored)}."
        )
    return " ".join(said)
