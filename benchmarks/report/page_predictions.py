"""Memory on the page that nobody measured: kept predictions of what runs trained, and the command for the rest."""

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.config import NO_SAVERS, RunConfig, Savers
from benchmarks.memory.kept_predictions import StoredPrediction, each_prediction
from benchmarks.names import variant_name
from benchmarks.report.page_memory import SETTING, Point, make_point, setting_of
from methods import TITLES

SIDES = (224, 384, 512, 768, 1024)  # px, that are asked about beside those of the runs
_OTHER = ("lr", "weight_decay")  # options of a method that memory does not depend on, and runs have as settings
_RUN = {entry.name for entry in dataclasses.fields(RunConfig)}


class Trained(NamedTuple):
    """What runs trained: a method with its label, the setting in words and as values, and all settings of the runs."""

    method: str
    label: str
    setting: str
    values: Mapping[str, Any]
    variant: Mapping[str, Any]
    num_classes: int | None


def trained(frame: pd.DataFrame, labels: Sequence[str | None]) -> list[Trained]:
    """What the runs trained that the table counts, the most common setting first.

    Args:
        frame: The runs.
        labels: Of each run that of its row in the table; None where it has none.
    """
    columns = ["method", *SETTING, "variant", "num_classes"]
    runs = frame[columns].assign(label=pd.Series(labels, frame.index, dtype="object"))
    runs = runs[runs["label"].notna()].astype("object")
    runs = runs.where(runs.notna(), None)
    settings = Counter(setting_of(run) for run in runs[[*SETTING]].to_dict("records"))
    order = [setting for setting, _ in settings.most_common()]
    found = [
        Trained(
            *(run["method"], run["label"], setting_of(run), {name: run[name] for name in SETTING}),
            *(json.loads(run["variant"]), None if run["num_classes"] is None else int(run["num_classes"])),
        )
        for run in runs.drop_duplicates().to_dict("records")
    ]
    return sorted(found, key=lambda one: order.index(one.setting))


def kept_points(wanted: Sequence[Trained], points: Sequence[Point], cache: Path | None) -> Iterator[Point]:
    """The kept predictions of what runs trained, at sides of which nothing else is known.

    Args:
        wanted: What runs trained.
        points: What is known without them.
        cache: The folder of caches.
    """
    known = {(point["setting"], point["label"], point["resolution"]) for point in points}
    for stored in each_prediction(cache) if cache else ():
        point = stored["key"]["point"]
        for one in wanted:
            place = one.setting, one.label, point["resolution"]
            if place not in known and _is_of(stored, one):
                known.add(place)
                peaks = {phase: peak.allocated for phase, peak in stored["phases"].items()}
                named = {"method": one.method, "resolution": point["resolution"], "device": None}
                named |= {"setting": one.setting, "label": one.label, "record": None}
                yield from make_point(named, "predicted", peaks, False, [])


def _is_of(stored: StoredPrediction, one: Trained) -> bool:
    """Whether a prediction is of the model and setting that runs trained."""
    point, options = stored["key"]["point"], one.variant
    has_no_features = point["preload"] and "preload" not in stored["phases"]  # preloading is then no choice
    asked = {name: value for name, value in point["options"].items() if name not in _OTHER}
    return (
        point["method"] == one.method
        and point["preload_limit"] is None
        and setting_of(point) == one.setting
        and point["num_classes"] == one.num_classes
        and point["loss"] == options.get("loss", "cross_entropy")
        and (point["preload"] == options.get("preload", True) or has_no_features)
        and all(point[name.name] == options.get(name.name, name.default) for name in dataclasses.fields(Savers))
        and all(options.get(name, value) == value for name, value in asked.items())
        and all(name in options for name in stored["changed"] if name not in _OTHER)
    )


def page_settings(wanted: Sequence[Trained], points: Sequence[Point]) -> list[dict[str, Any]]:
    """The settings of the page, those of runs first: `setting`, and of runs the `command` that predicts the rest."""
    commands: dict[str, str | None] = {}
    for setting in dict.fromkeys(one.setting for one in wanted):
        own = [one for one in wanted if one.setting == setting]
        sides = {point["resolution"] for point in points if point["setting"] == setting}
        commands[setting] = _command(own, sorted(sides | set(SIDES)))
    others = Counter(point["setting"] for point in points if point["setting"] not in commands)
    commands |= {setting: None for setting, _ in others.most_common()}
    return [{"setting": setting, "command": command} for setting, command in commands.items()]


def _spec(one: Trained) -> str:
    """The method as `--methods` takes it, with its options where its label tells of any."""
    if one.label == TITLES.get(one.method):
        return one.method
    return variant_name(one.method, {name: value for name, value in one.variant.items() if name not in _RUN})


def _command(own: Sequence[Trained], sides: Sequence[int]) -> str:
    """The command line that predicts methods at sides, in the setting of the first of them."""
    first = own[0]
    methods = dict.fromkeys(map(_spec, own))
    values = first.values
    words = ["python", "bench.py", "memory", "--predict", "--methods", *methods, "--res", *map(str, sides)]
    words += ["--batch-size", str(values["batch_size"]), "--precision", values["precision"]]
    words += ["--attention", values["attention"], "--backbone", values["backbone"]]
    words += ["--grad-checkpointing"] * bool(values["grad_checkpointing"])
    words += ["--num-classes", str(first.num_classes)] * (first.num_classes is not None)
    words += ["--preload", "off"] * (not any(one.variant.get("preload", True) for one in own))
    for entry in dataclasses.fields(NO_SAVERS):
        value = first.variant.get(entry.name, entry.default)
        words += [f"--{entry.name.replace('_', '-')}", str(value)] * (value != entry.default)
    return shlex.join(words)
