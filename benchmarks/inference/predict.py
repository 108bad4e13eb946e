"""Predictions of a trained model on image files, a row each, as runs store theirs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.data.dataset import Dataset
from benchmarks.errors import MissingError, UserError, one_line
from benchmarks.images.decode import Pixels, in_order, is_image
from benchmarks.inference.trained import TrainedModel
from benchmarks.storage.files import irregular
from benchmarks.storage.folders import files_below, link_fault
from benchmarks.tasks import Task

SAY_EVERY = 10  # batches

Views = dict[str, Pixels]


def image_files(places: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The images that are meant: files as they were named, and the images in folders, in the order of their paths.

    Returns:
        Their paths, each once, and a line for each link in a folder that cannot be followed.

    Raises:
        MissingError: A file or folder is not there, or there are no images.
    """
    found: dict[Path, None] = {}
    problems: list[str] = []
    places = list(places)
    for place in places:
        if not place.exists():
            raise MissingError(f"files must be images or folders of them, got {str(place)!r}; there is no such file")
        if not place.is_dir():
            found[place] = None
            continue
        for path in files_below(place):
            if fault := link_fault(path):
                problems.append(f"link must lead to an image or a folder, got {str(path)!r}, which {fault}")
            elif irregular(path) is None and is_image(path):
                found[path] = None
    if not found and not problems:
        raise MissingError(
            f"files must be images or folders of them, got none in {', '.join(map(repr, map(str, places)))}"
        )
    return list(found), problems


def predict(
    model: TrainedModel,
    paths: Sequence[Path],
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[pd.DataFrame, list[str]]:
    """Predicts images.

    Args:
        model: What predicts.
        paths: Of the images.
        batch_size: Images at a time; None for as many as in the run.
        on_progress: Called with (images done, images in all) now and then.

    Returns:
        A row an image with `path`, and `prob_<class>` and `logit_<class>` for each class; and a line for each file that
        cannot be read, which has no row.
    """
    problems: list[str] = []
    done: list[Path] = []
    logits: list[NDArray[np.float64]] = []
    for number, batch in enumerate(_batches(model, paths, batch_size or model.batch_size, problems), start=1):
        done += [path for path, _ in batch]
        stacked = {name: torch.from_numpy(np.stack([views[name] for _, views in batch])) for name in model.sides}
        logits.append(model(stacked).double().cpu().numpy())
        if number % SAY_EVERY == 0 or len(done) + len(problems) == len(paths):
            on_progress(len(done) + len(problems), len(paths))
    values = np.concatenate(logits) if logits else np.zeros((0, len(model.classes)))
    frame = pd.DataFrame({"path": [str(path) for path in done]}, dtype="object")
    return add_probabilities(frame, model.classes, values, model.task), problems


def add_probabilities(
    frame: pd.DataFrame, classes: Sequence[str], logits: NDArray[np.float64], task: Task
) -> pd.DataFrame:
    """Adds `prob_<class>` for each class, then `logit_<class>`, of logits `(n, C)`.

    Of grades by CORN also `called`, the grade that an image is called: it need not be the likeliest.
    """
    if task.name == "ordinal":
        frame["called"] = [classes[index] for index in task.called(logits)]
    columns = {
        f"{kind}_{name}": values[:, index]
        for kind, values in (("prob", task.probabilities(logits)), ("logit", logits))
        for index, name in enumerate(classes)
    }
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


def image_probabilities(dataset: Dataset, split: str, logits: NDArray[np.float64], task: Task) -> pd.DataFrame:
    """One row an image: its label, its group (patient, lesion, ...) in a prepared folder, probabilities and logits."""
    samples = dataset.splits[split]
    frame = pd.DataFrame(
        {
            "split": split,
            "path": [sample.path for sample in samples],
            **dataset.label_columns(split),
        }
    )
    groups = dataset.groups()
    if groups is not None:
        frame["group"] = [groups[sample.path] for sample in samples]
    return add_probabilities(frame, dataset.classes, logits, task)


def _batches(
    model: TrainedModel, paths: Sequence[Path], size: int, problems: list[str]
) -> Iterator[list[tuple[Path, Views]]]:
    """Batches of what can be read, in order; adds to the problems."""
    batch: list[tuple[Path, Views]] = []
    for path, views in zip(paths, in_order(lambda path: read_or_fault(model, path), paths), strict=True):
        if isinstance(views, str):
            problems.append(views)
            continue
        batch.append((path, views))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def read_or_fault(model: TrainedModel, path: Path) -> Views | str:
    """The views of a file, or a line that says why there are none."""
    try:
        kind = irregular(path)
        if kind is not None:
            raise UserError(f"image must be a regular file, got {kind} at {str(path)!r}; leave it out")
        return model.read_one(path)
    except UserError as error:
        text = one_line(error)
        return text if str(path) in text else f"image must be readable, got {str(path)!r} ({text}); leave it out"
