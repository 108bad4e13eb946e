"""From runs to cells: one row for each protocol block, dataset, resolution and method, averaged over seeds only."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.analysis.backbones import ON
from benchmarks.analysis.budgets import in_every_budget
from benchmarks.analysis.cell_memory import cell_memory
from benchmarks.analysis.convergence import in_words, reasons
from benchmarks.analysis.seeds import seeds_asked
from benchmarks.analysis.training_code import AVERAGED, LEFT_OUT, add_code, by_code, differs
from benchmarks.config import SAID, said_words
from benchmarks.names import told_apart, variant_title
from benchmarks.records.frame import LATER, PROTOCOL
from benchmarks.records.schema import DAMAGED, STATES
from methods import IDEA_TITLES, TITLES, idea_of

CELL = ("block", "dataset", "dataset_digest", "resolution", "method", "variant")
PARAMETERS = ("trainable", "trainable_head", "trainable_total", "frozen")
SPLIT = ("split_kind", "split_group_key", "split_digest")
_BLOCK = CELL[:3]
_NAMES = ("dataset_title", "method_title", "device_type")
_SCORES = ("auc", "accuracy", "balanced_accuracy", "macro_f1", "kappa", "quadratic_kappa", "mae", "val_auc")
_COUNTS = ("num_train", "num_train_units", "majority_share", "num_classes")
_NAMED = "-"  # of runs whose predictions name images
_STATES = (*STATES, DAMAGED)  # of a cell's runs, the best first
_SECONDS = ("seconds_train", "preload_seconds", "images_per_second_preload")


def performance_parameter_efficiency(score: float, trainable_fraction: float) -> float:
    """PPE of the FPT papers: score * exp(-log10(r + 1)), with r the trainable share (0-1) of the parameters."""
    return score * math.exp(-math.log10(trainable_fraction + 1))


def performance_memory_efficiency(score: float, memory: float, memory_full: float) -> float:
    """PME of the FPT papers: score * exp(-log10(m / m_full + 1)), with m_full the memory of full fine-tuning."""
    return score * math.exp(-math.log10(memory / memory_full + 1))


def block_ids(frame: pd.DataFrame) -> pd.Series:
    """Of each run the six letters that name its protocol, the same on every machine.

    A run that ended before it could tell its device stands with those like it, where these had one device.
    """
    alike = frame.groupby([name for name in PROTOCOL if name != "device"], dropna=False, sort=False)["device"]
    theirs = alike.transform("first").where(alike.transform("nunique") == 1)
    frame = frame.assign(device=frame["device"].where(frame["device"].notna(), theirs))
    protocols = frame.groupby(list(PROTOCOL), dropna=False, sort=False).ngroup()
    names = {number: _block_id(frame.loc[protocols.index[protocols == number][0]]) for number in protocols.unique()}
    return protocols.map(names).astype("object")


def _in_blocks(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs with their block, and the columns of `add_code`; those without a budget in every block beside them."""
    runs = in_every_budget(frame)
    return add_code(runs.assign(block=block_ids(runs)))


def _block_id(row: pd.Series) -> str:
    values = [None if pd.isna(row[name]) else str(row[name]) for name in PROTOCOL if name not in LATER]
    values += [f"{name} {row[name]}" for name, default in LATER.items() if row[name] != default]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:6]


def method_rank(name: str) -> tuple[int, int, str]:
    """Sort key: the order of ideas, in each that of the table of methods, then names that only stored records know."""
    ideas, known = list(IDEA_TITLES), list(TITLES)
    return (ideas.index(idea_of(name)), known.index(name) if name in TITLES else len(known), name)


def summary(frame: pd.DataFrame, mix_code: bool = False, among: pd.DataFrame | None = None) -> pd.DataFrame:
    """Summarise runs, one row a cell: a method (or variant of it) on a dataset at a resolution under one protocol.

    Args:
        frame: runs as `records.runs_frame` gives them.
        mix_code: whether runs that different code has trained are averaged all the same; else their cell has no means.
        among: the runs beside which variants of a method are told apart, `frame` among them; None for `frame`.

    Returns:
        The columns `CELL` and those of the protocol, and:
        split_kind, split_group_key, split_digest (of a dataset that bench.py prepare made);
        label (title of the method, with whatever tells its variants apart), dataset_label, synthetic, fallback,
        effective_resolution, augmented (views that training augmented, as runs have it); state (ok when any seed is),
        message, phase, seeds_ok, seeds_asked (the distinct seeds that any method was tried with at the same place, but
        for those that a stopping rule asked of others only), seeds_<state>, and complete (whether all of these are ok:
        only such cells are ranked and compared, since what is left of a method after its failures is no sample of it);
        trainable, trainable_head, trainable_total, frozen, percent;
        {auc,accuracy,...}_mean and _sd (0-1; sample sd, missing for one seed);
        memory_bytes (peak allocated of the whole run: the highest of its phases), memory_source (`measured` where all
        its phases are, else `predicted` where all are, else missing), memory_phase (the highest) and process_bytes
        (the same as the driver reports it for the process, of the same source);
        {train,preload}_memory_bytes (peak allocated of the phase) and _source (measured where there is a measurement),
        {train,preload}_process_bytes (of that source); all apart as {measured,predicted}_{whole,train,preload}_bytes;
        host_peak_bytes;
        tuned_lr, tuned_trials, tuned_at_edge: of a rate chosen on validation; missing where it was given;
        stopping_looks, stopping_level, stopping_margin (of the rule that added seeds; missing where none did);
        seconds_train, preload_seconds, images_per_second_preload (means over seeds), cache_bytes;
        unconverged (how many of the runs averaged have not converged and why, see `convergence`; missing if none);
        num_train (images that were trained on), num_train_units, majority_share (0-1, of the largest class in the test
        split), num_classes; metric (by which methods are ranked on the dataset); leaks (images that lie in another
        split too; missing where no run says);
        names_keys (with which the runs that are ok hash names in their predictions, divided by spaces; `-` for those
        that do not);
        run_ids and run_seeds (of the runs that are ok and averaged) and seeds (tried), divided by spaces;
        shared_code and code (which code has trained the runs that are ok: digests as `training_code.add_code` has
        them, and in words), code_mix (`left out` or `averaged` where it differs within the cell, else missing);
        ppe; pme and pme_source, by memory of the whole run; train_pme and train_pme_source, by that of training, as the
        papers define it (0-1): missing where full fine-tuning has no memory of the same source in that cell.
        Sorted by dataset, block, resolution and the order of the methods.
    """
    if frame.empty:
        return pd.DataFrame()
    runs = _in_blocks(frame)
    table = _cells(runs.sort_values(["seed", "run_id"]), mix_code)  # sums of floats depend on the order of runs
    table.insert(2, "dataset_label", _dataset_labels(table))
    table.insert(6, "label", _labels(table, [runs] if among is None else [runs, _in_blocks(among)]))
    table = pd.concat([table, _efficiencies(table)], axis=1)
    names = ("dataset", "dataset_digest", "backbone", "block", "resolution", "method", "label")
    keys = [
        (*map(str, place), resolution, method_rank(method), label)
        for *place, resolution, method, label in _zip(table, *names)
    ]
    return table.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def _labels(table: pd.DataFrame, among: Sequence[pd.DataFrame]) -> pd.Series:
    """The label of each row, told apart from all of its method in the same block of the last runs that have it.

    Runs of the table alone may have blocks that more runs have not: without others no budget holds what trains nothing.
    """
    titles = {
        (*map(_known, place), *variant): label
        for known in among
        for place, block in known.groupby(list(_BLOCK), dropna=False)
        for variant, label in variant_labels(block).items()
    }
    places = _zip(table, *_BLOCK, "method", "variant")
    labels = [titles[*map(_known, place), method, variant] for *place, method, variant in places]
    return pd.Series(labels, index=table.index, dtype="object")


def _known(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def blocks(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The parts of a summary that may stand in one table or figure: one dataset under one protocol."""
    if len(table):
        for _, group in table.groupby(["dataset_label", "block"], sort=False, dropna=False):
            yield group


def refusals(frame: pd.DataFrame) -> list[str]:
    """A line for each cell whose runs different code has trained, so that `summary` gives it no mean unasked."""
    runs = _in_blocks(frame) if len(frame) else frame
    good = runs[runs["state"] == "ok"]
    lines = []
    for _, group in good[differs(good, list(CELL))].groupby(list(CELL), dropna=False) if len(good) else ():
        first = group.iloc[0]
        label = variant_labels(runs[runs["block"] == first["block"]])[first["method"], first["variant"]]
        codes = "; ".join(f"{code}: {', '.join(run_ids)}" for code, run_ids in by_code(group).items())
        lines.append(
            f"runs of {label} on {first['dataset']} at {first['resolution']} px (protocol {first['block']}) must be "
            f"trained by the same code to be averaged, got {codes}: run them again with --overwrite, or average them "
            "all the same with --mix-code"
        )
    return lines


def _cells(runs: pd.DataFrame, mix_code: bool) -> pd.DataFrame:
    """One row a cell: every run of one method variant on one dataset at one resolution, its seeds.

    All cells at once: one by one, pandas takes milliseconds for each.
    """
    runs = runs.assign(cell=runs.groupby(list(CELL), dropna=False).ngroup(), seeds_asked=seeds_asked(runs))
    runs["unconverged"] = reasons(runs)
    is_ok = runs["state"] == "ok"
    tried, good, bad = (part.groupby("cell") for part in (runs, runs[is_ok], runs[~is_ok]))
    first = tried.first()  # of each column, what is there
    columns: dict[str, Any] = {name: first[name] for name in (*CELL, *PROTOCOL, *_NAMES, *SPLIT)}
    columns["state"] = runs["state"].map(_STATES.index).groupby(runs["cell"]).min().map(_STATES.__getitem__)
    columns |= {name: bad[name].first() for name in ("message", "phase")}
    columns |= {name: tried[name].any().astype(bool) for name in ("synthetic", "fallback")}
    columns |= {
        name: first[name] for name in ("effective_resolution", "augmented", "backbone_requested", "weights_note")
    }
    columns |= {name: first[name] for name in (*PARAMETERS, "percent", *_COUNTS)}
    columns["metric"] = first["metric"]
    columns["leaks"] = tried["leaks"].max()
    columns |= {f"seeds_{state}": (runs["state"] == state).groupby(runs["cell"]).sum() for state in _STATES}
    columns["names_keys"] = good["names_key"].agg(lambda keys: " ".join(sorted(keys.fillna(_NAMED).unique())))
    columns["run_ids"] = good["run_id"].agg(" ".join)
    columns["run_seeds"] = good["seed"].agg(lambda seeds: " ".join(map(str, seeds))).astype("object")
    columns["unconverged"] = good["unconverged"].agg(in_words).reindex(first.index).astype("object")
    columns["seeds"] = tried["seed"].agg(lambda seeds: " ".join(map(str, seeds.unique())))
    for score in _SCORES:
        columns |= {f"{score}_mean": good[score].mean(), f"{score}_sd": good[score].std(ddof=1)}
    memory = cell_memory(good, tried)
    columns |= {str(name): memory[name] for name in memory}
    columns |= {name: first[name] for name in ("tuned_lr", "tuned_trials")}
    columns |= {name: first[name] for name in ("stopping_looks", "stopping_level", "stopping_margin")}
    columns["tuned_at_edge"] = tried["tuned_at_edge"].any().astype(bool)
    columns |= {name: good[name].mean() for name in _SECONDS}
    columns |= {name: good[name].max() for name in ("host_peak_bytes", "cache_bytes")}
    table = pd.DataFrame(columns | {"seeds_asked": first["seeds_asked"]}, index=first.index)
    table["complete"] = table["seeds_ok"] == table["seeds_asked"]
    return _with_code(table.fillna({"run_ids": "", "run_seeds": "", "names_keys": ""}), runs[is_ok], mix_code)


def _with_code(table: pd.DataFrame, good: pd.DataFrame, mix_code: bool) -> pd.DataFrame:
    """The cells with the code of their runs; without means where it differs, unless it may be mixed."""
    by_cell = good.groupby("cell")
    table = table.assign(
        shared_code=by_cell["shared_code"].agg(_joined(" ")),
        code=by_cell["code_words"].agg(_joined("; ")),
        code_mix=pd.Series(None, table.index, dtype="object"),
    )
    mixed = good[differs(good, ["cell"])]
    for cell, group in mixed.groupby("cell"):
        table.loc[cell, ["code", "code_mix"]] = ["; ".join(by_code(group)), AVERAGED if mix_code else LEFT_OUT]
    if not mix_code:
        cells = mixed["cell"].unique()
        table.loc[cells, [*(f"{score}_{part}" for score in _SCORES for part in ("mean", "sd")), *_SECONDS]] = math.nan
        table.loc[cells, ["run_ids", "run_seeds"]] = ""
        table.loc[cells, "unconverged"] = None
    return table


def _joined(divider: str) -> Callable[[pd.Series], str]:
    return lambda words: divider.join(dict.fromkeys(words))


def _efficiencies(table: pd.DataFrame) -> pd.DataFrame:
    """PPE of cells, and PME by memory of the whole run and by that of training alone."""
    ppe = [
        None if pd.isna(auc) or pd.isna(percent) else performance_parameter_efficiency(auc, percent / 100)
        for auc, percent in _zip(table, "auc_mean", "percent")
    ]
    gained = pd.DataFrame({"ppe": ppe}, index=table.index, dtype="float64")
    for prefix, part in (("", "whole"), ("train_", "train")):
        found = pd.DataFrame(_memory_efficiencies(table, part), index=table.index, columns=["score", "source"])
        gained[f"{prefix}pme"] = found["score"].astype("float64")
        gained[f"{prefix}pme_source"] = found["source"].astype("object")
    return gained


def _memory_efficiencies(table: pd.DataFrame, part: str) -> Iterator[tuple[float | None, str | None]]:
    """PME of each cell and its source: a ratio of two measurements or of two predictions, never across."""
    places = [tuple(map(str, place)) for place in _zip(table, *_BLOCK, "resolution")]
    memories = {source: table[f"{source}_{part}_bytes"].fillna(0).to_list() for source in ("measured", "predicted")}
    full: dict[tuple[Any, ...], int] = {}  # the highest memory of full fine-tuning at each place, by source
    for i in (i for i, method in enumerate(table["method"]) if method == "full"):
        for source, values in memories.items():
            full[source, *places[i]] = max(values[i], full.get((source, *places[i]), 0))
    for i, auc in enumerate(table["auc_mean"]):
        known = [name for name, values in memories.items() if values[i] and full.get((name, *places[i]), 0)]
        if pd.isna(auc) or not known:
            yield None, None
        else:
            own, reference = memories[known[0]][i], full[known[0], *places[i]]
            yield performance_memory_efficiency(auc, own, reference), known[0]


def _zip(table: pd.DataFrame, *names: str) -> Iterator[tuple[Any, ...]]:
    """Some columns row by row."""
    return zip(*(table[name] for name in names), strict=True)


def highest(rows: pd.DataFrame, column: str) -> int | None:
    """The index of the row with the highest value, the first of equals; a missing value is the lowest."""
    if rows.empty:
        return None
    return int(rows.index.to_list()[int(rows[column].fillna(-1).to_numpy().argmax())])


def across_datasets(table: pd.DataFrame) -> pd.Series:
    """Labels under which the rows of one protocol, all its datasets, are one method or another.

    A method that has one setting in each dataset and resolution is one, even where its learning rate was chosen for
    each; a method with several somewhere is told apart by settings everywhere.
    """
    labels = variant_labels(table)
    several = table.groupby(["method", "dataset_label", "resolution"], dropna=False)["variant"].nunique()
    apart = set(several[several > 1].index.get_level_values("method"))
    plain = variant_labels(table.drop_duplicates("method"))
    titles = {method: label for (method, _), label in plain.items()}
    return pd.Series(
        [
            labels[method, variant] if method in apart else titles[method]
            for method, variant in zip(table["method"], table["variant"], strict=True)
        ],
        index=table.index,
    )


def variant_labels(runs: pd.DataFrame) -> dict[tuple[str, str], str]:
    """A label for each (method, variant): the title, and in brackets the settings in which its variants differ.

    Where they differ in several, as when each option is changed alone, the most common value goes unsaid. A backbone
    among the settings (see `across_backbones`) stands there in any case, first, and so does what `said_words` says.
    """
    labels = {}
    for method in sorted(set(runs["method"])):
        group = runs[runs["method"] == method]
        title = TITLES.get(method) or _first(group["method_title"]) or method
        settings = {variant: json.loads(variant) for variant in group["variant"].unique()}
        keys = sorted({key for setting in settings.values() for key in setting} - {"options", ON, *SAID})
        values = {key: [json.dumps(setting.get(key)) for setting in settings.values()] for key in keys}
        differing = [key for key in keys if len(set(values[key])) > 1]
        usual = _usual({key: values[key] for key in differing})
        for variant, setting in settings.items():
            first = [setting[ON]] if ON in setting else []
            first += said_words(setting)
            labels[method, variant] = variant_title(str(title), _unusual(setting, differing, usual), first)
    return labels


def _usual(values: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Of several settings in which variants differ the value that more of them have than any other."""
    if len(values) < 2:
        return {}
    counts = {key: Counter(found).most_common(2) for key, found in values.items()}
    return {key: first for key, ((first, most), (_, next_most)) in counts.items() if most > next_most}


def _unusual(setting: Mapping[str, Any], differing: Sequence[str], usual: Mapping[str, str]) -> dict[str, Any]:
    return {key: setting.get(key) for key in differing if json.dumps(setting.get(key)) != usual.get(key)}


def _dataset_labels(table: pd.DataFrame) -> list[str]:
    """The title of each row's dataset; sets of images with the same one are told apart by their digests."""
    known = table[["dataset", "dataset_digest", "dataset_title"]].astype("object")
    known = known.where(known.notna(), None).drop_duplicates(["dataset", "dataset_digest"])
    by_title: dict[str, list[tuple[Any, Any]]] = {}
    for name, digest, title in _zip(known, *known):
        by_title.setdefault(str(title or name), []).append((name, digest))
    labels = {
        (name, digest): told_apart(title, str(digest)) if len(sets) > 1 else title
        for title, sets in by_title.items()
        for name, digest in sets
    }
    return [labels[place] for place in _zip(table, "dataset", "dataset_digest")]


def _first(values: pd.Series) -> Any:
    present = values.dropna()
    return present.iloc[0] if len(present) else None
