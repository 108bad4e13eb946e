"""Test images that methods get wrong, for the page: which, by stored predictions, and thumbnails of them."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.errors import UserError
from benchmarks.images.decode import in_order, read_thumbnail
from benchmarks.records.record import predictions_path
from benchmarks.report.captions import title
from benchmarks.report.page_panels import MakeSections, Shown
from benchmarks.storage.csv_cells import from_text
from benchmarks.storage.name_key import hashed, read_key
from benchmarks.storage.notes import say

SIDE = 96  # px that a thumbnail has at most
_QUALITY = 80  # of its JPEG
_KNOWN = {"0": 0, "1": 1}  # what is said of a finding; anything else is not known
SAID = (
    "Probabilities are means over a method's seeds, and what is called is the likeliest by these; of a finding, "
    "present from 0.5 on. Of one method: what it gets wrong, the surest first. Most methods: by how many get it "
    "wrong, then by the mean probability of the truth. Differ most: where some are right and some wrong, by how far "
    "apart they are in the probability of the truth. An image's number is its place among the test images, by name. "
    "The thumbnails are part of this file: whoever has the page has them."
)


class Question(NamedTuple):
    """What is asked of test images: their class, or one finding.

    Attributes:
        finding: Its name, None of classes.
        answers: Names of the n answers.
        numbers: Places of the images among all test images by name, from 1 on.
        paths: Of the images, as stored.
        truth: Indices of the right answers.
        probabilities: Of each method `(methods, images, n)`.
    """

    finding: str | None
    answers: list[str]
    numbers: NDArray[Any]
    paths: list[str]
    truth: NDArray[Any]
    probabilities: NDArray[np.float64]


def wrong_images(number: int, data_root: Path, cache: Path) -> MakeSections:
    """A section with the images that methods get wrong.

    Args:
        number: Of images in each choice: of a method, of most methods, where they differ.
        data_root: Where the folders of datasets lie.
        cache: The folder of caches.
    """

    def make(shown: Shown) -> tuple[dict[str, list[Any]], list[str]]:
        pictures = _Pictures(data_root, cache)
        places, problems = [], []
        done = shown.table[shown.table["state"] == "ok"]
        for _, rows in done.groupby(["dataset_label", "dataset_digest", "block", "resolution"], sort=False):
            try:
                names = pictures.names(rows.iloc[0], shown.frame)
                questions = list(_questions(shown, rows))
            except UserError as error:
                problems.append(str(error))
                continue
            for question in questions:
                place = _place(rows, question, number)
                pictures.add(place, rows.iloc[0], [names[question.paths[i]] for i in place.pop("chosen")])
                places.append(place)
        problems = list(dict.fromkeys([*problems, *pictures.problems]))
        size = sum(map(len, pictures.made))
        say(f"{len(pictures.made)} test images are part of the page ({size / 1024:,.0f} KiB): whoever has it has them")
        return {"wrong": [{"said": SAID, "images": pictures.made, "places": places}]} if places else {}, problems

    return make


def _questions(shown: Shown, rows: pd.DataFrame) -> Iterator[Question]:
    """What is asked at a place, answered by each method there.

    Raises:
        UserError: The predictions of a run are not of the images of the others.
    """
    found = [_mean([_tested(shown.results, run_id) for run_id in str(ids).split()]) for ids in rows["run_ids"]]
    first = found[0]
    for label, other in zip(rows["label"], found, strict=True):
        if not other.iloc[:, : len(_about(first))].equals(first.iloc[:, : len(_about(first))]):
            raise UserError(
                f"test images must be the same for all methods at one place, got others of {label}: none are shown for "
                f"{rows['dataset_label'].iloc[0]} at {rows['resolution'].iloc[0]} px"
            )
    names = [name.removeprefix("prob_") for name in first.columns if name.startswith("prob_")]
    values = np.stack([one[[f"prob_{name}" for name in names]].to_numpy(dtype=np.float64) for one in found])
    paths, numbers = list(first["path"]), np.arange(1, len(first) + 1)
    if "label" in first:
        truth = np.array([names.index(name) for name in first["label"]], np.int64)
        yield Question(None, names, numbers, paths, truth, values)
        return
    for place, name in enumerate(names):
        targets = first[f"target_{name}"].map(_KNOWN)
        known = targets.notna().to_numpy()
        chosen = [path for path, is_known in zip(paths, known, strict=True) if is_known]
        present = values[:, known, place]
        answered = np.stack([1 - present, present], axis=-1)
        yield Question(
            name, ["absent", "present"], numbers[known], chosen, targets[known].to_numpy(dtype=np.int64), answered
        )


def _about(frame: pd.DataFrame) -> list[str]:
    """Columns that name an image and say what it shows."""
    return [name for name in frame.columns if not name.startswith("prob_")]


def _tested(results: Path, run_id: str) -> pd.DataFrame:
    """Test images of a run by name, what they show, and the probabilities."""
    frame = pd.read_csv(predictions_path(results, run_id), dtype=str, keep_default_na=False)
    frame = frame.rename(columns=from_text)
    about = [name for name in frame.columns if name in ("path", "label") or name.startswith("target_")]
    values = [name for name in frame.columns if name.startswith("prob_")]
    frame = frame.loc[frame["split"] == "test", [*about, *values]]
    frame = frame.assign(**{name: frame[name].map(from_text) for name in about})
    return frame.astype(dict.fromkeys(values, np.float64)).sort_values("path", ignore_index=True)


def _mean(seeds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The first with the probabilities averaged."""
    values = [name for name in seeds[0].columns if name.startswith("prob_")]
    means = np.mean([one[values].to_numpy() for one in seeds], axis=0)
    return seeds[0].assign(**dict(zip(values, means.T, strict=True)))


def _place(rows: pd.DataFrame, question: Question, number: int) -> dict[str, Any]:
    """A place with its choices of images: entries, each an image with what methods say of it, and orders of entries."""
    of_truth = np.take_along_axis(question.probabilities, question.truth[None, :, None], axis=2)[..., 0]
    called = question.probabilities.argmax(axis=2)
    if question.finding is not None:
        called = (question.probabilities[..., 1] >= 0.5).astype(np.int64)
    orders = chosen_images(of_truth, called != question.truth, number)
    chosen = sorted({image for order in orders.values() for image in order})
    entry_of = {image: entry for entry, image in enumerate(chosen)}
    return {
        **{"dataset": title(rows), "block": rows["block"].iloc[0], "resolution": rows["resolution"].iloc[0]},
        **{"finding": question.finding, "answers": question.answers, "methods": list(rows["label"])},
        "orders": {name: [entry_of[image] for image in order] for name, order in orders.items()},
        "entries": [
            {
                **{"number": int(question.numbers[image]), "truth": int(question.truth[image])},
                **{"called": called[:, image].tolist(), "probability": of_truth[:, image].round(4).tolist()},
            }
            for image in chosen
        ],
        "chosen": chosen,
    }


def chosen_images(of_truth: NDArray[np.float64], wrong: NDArray[np.bool_], number: int) -> dict[str, list[int]]:
    """Which images are shown, in which order.

    Args:
        of_truth: The probability of the right answer `(methods, images)`.
        wrong: Whether another is called `(methods, images)`.
        number: The most of each choice.

    Returns:
        Indices of images for each method, by its index as text, for `most` and for `differ`.
    """
    images = range(of_truth.shape[1])
    counts, means = wrong.sum(axis=0), of_truth.mean(axis=0)
    spread = of_truth.max(axis=0) - of_truth.min(axis=0)
    orders = {
        str(method): sorted((i for i in images if wrong[method, i]), key=lambda i: of_truth[method, i])
        for method in range(len(of_truth))
    }
    orders["most"] = sorted((i for i in images if counts[i]), key=lambda i: (-counts[i], means[i]))
    orders["differ"] = sorted((i for i in images if 0 < counts[i] < len(wrong)), key=lambda i: -spread[i])
    return {name: order[:number] for name, order in orders.items()}


class _Pictures:
    """Thumbnails of test images, each once.

    Attributes:
        made: Of each a data URI; None of one that cannot be read.
        problems: A line for each that cannot.
    """

    def __init__(self, data_root: Path, cache: Path) -> None:
        self._data_root, self._cache = data_root, cache
        self._datasets: dict[str, Dataset] = {}
        self._numbers: dict[Path, int] = {}
        self.made: list[str] = []
        self.problems: list[str] = []

    def names(self, row: pd.Series, frame: pd.DataFrame) -> Mapping[str, str]:
        """The path of each test image of a row's dataset by the name that predictions have for it.

        Raises:
            UserError: It is not there, or not what the row's runs were tested on.
        """
        name = str(row["dataset"])
        if name not in self._datasets:
            self._datasets[name] = open_dataset(name, self._data_root, self._cache)
        dataset = self._datasets[name]
        if dataset.digest != row["dataset_digest"]:
            raise UserError(
                f"images of {name} must be those that the runs had, got other images, labels or splits in "
                f"{str(dataset.root)!r}; none of them are shown; say with --data-root where they are"
            )
        paths = [sample.path for sample in dataset.splits["test"]]
        runs = frame[frame["run_id"].isin(str(row["run_ids"]).split())]
        if runs["names_key"].isna().all():
            return dict(zip(paths, paths, strict=True))
        key = read_key(dataset.root)
        return {hashed(path, "image", key): path for path in paths}

    def add(self, place: dict[str, Any], row: pd.Series, paths: Sequence[str]) -> None:
        """Gives each entry of a place the number of its thumbnail; None where the file cannot be read."""
        dataset = self._datasets[str(row["dataset"])]
        files = [dataset.root / path for path in paths]
        new = [file for file in files if file not in self._numbers]
        for file, found in zip(new, in_order(lambda file: _thumbnail(file, dataset), new), strict=True):
            if isinstance(found, UserError):
                self.problems.append(str(found))
                continue
            self._numbers[file] = len(self.made)
            self.made.append(found)
        for entry, file in zip(place["entries"], files, strict=True):
            entry["image"] = self._numbers.get(file)


def _thumbnail(path: Path, dataset: Dataset) -> str | UserError:
    """A file as a data URI, its grey values as in training; or why it cannot be read."""
    try:
        image = read_thumbnail(path, SIDE, dataset.scale)
    except UserError as error:
        return error
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
