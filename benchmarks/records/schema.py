"""What the record of a run must be: the types of its JSON file, and the names that tables give to its values.

A value that a run did not come to, or that does not apply to it, is absent or null. What is not listed is kept as it
is. Unless marked otherwise, each text, number and flag is a column of tables, named as here.
"""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BeforeValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict, is_typeddict

from benchmarks.choices import COUNTERS, PHASES

Record = dict[str, Any]

Schema = Literal[1]
SCHEMA: int = get_args(Schema)[0]
State = Literal["ok", "oom", "diverged", "failed", "interrupted"]
STATES: tuple[State, ...] = get_args(State)
DAMAGED = "damaged"  # what tables call a run whose stored files are not, or no longer, what was stored


@dataclass(frozen=True)
class Column:
    """The name of a value's column in full; None where it is none."""

    name: str | None


@dataclass(frozen=True)
class Prefix:
    """What the names of an object's columns begin with, behind the prefixes of the objects around it."""

    text: str


def _fits(value: Any) -> Any:
    """A whole number may stand where one with a point is asked for, but only one that a table can hold."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise PydanticCustomError("too_large", "Value should be a number of at most 64 bits")
    return value


# Bounds stand before `_FITS`: behind a function of Python's, pydantic checks them in Python too, which takes as long
# again for ten thousand records.
_FINITE, _FITS = Field(allow_inf_nan=False), BeforeValidator(_fits)
_ONE = 1 + 1e-9  # scores are means, which round
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]  # of things, or of bytes
Positive = Annotated[int, Field(ge=1, le=2**63 - 1)]
Float = Annotated[float, _FINITE, _FITS]
Amount = Annotated[float, Field(ge=0), _FINITE, _FITS]
Score = Annotated[float, Field(ge=0, le=_ONE), _FINITE, _FITS]


class Status(TypedDict, total=False):
    """How the run ended, why, and in which phase."""

    state: Required[State]
    message: str | None
    phase: str | None


class Config(TypedDict, total=False):
    """The fields of `benchmarks.config.RunConfig` that tables show.

    Where nothing trains by gradients there are no epochs, rate and weight decay.
    """

    method: Required[str]
    dataset: Required[str]
    dataset_digest: str | None
    resolution: Required[Positive]
    seed: Required[Int64]
    precision: str | None
    attention: str | None
    batch_size: Required[Positive]
    epochs: Required[Positive | None]
    grad_checkpointing: bool | None
    preload: bool | None
    lr: Required[Amount | None]
    lr_grid: list[Amount] | None
    weight_decay: Amount | None
    decay_all: bool | None
    warmup_epochs: Count | None
    optimizer: str | None
    frozen_weights: str | None
    quantize: str | None
    offload: str | None
    recompute: str | None
    resample_patch_embed: bool | None
    compile: str | None
    train_fraction: Score | None
    shots: Positive | None
    keep_steps: bool | None
    imbalance: str | None
    loss: Annotated[str | None, Column("loss_name")]
    uncertain: str | None


class Method(TypedDict, total=False):
    """The method, and all fields of its Config."""

    title: Annotated[str | None, Column("method_title")]
    config: dict[str, Any] | None


class Split(TypedDict):
    """Who made the splits: see `benchmarks.data.manifest.SplitOrigin`."""

    kind: str
    group_key: str
    digest: str


class Counts(TypedDict, total=False):
    """Images by split and class."""

    train: dict[str, Count] | None
    test: dict[str, Count] | None


class TrainedOn(TypedDict):
    """The images that were trained on, where these are not the whole training split, and the units that they are of.

    counts: by class, or with each finding; known: those of which each finding is known.
    """

    num_images: Annotated[Positive, Column(None)]
    counts: dict[str, Count]
    unit: Annotated[str, Column(None)]
    num_units: Annotated[Positive, Column("num_train_units")]
    known: NotRequired[dict[str, Count]]


class FindingsPart(TypedDict, total=False):
    """Of findings: images by split; those of which each is known, or uncertain; and those that are not scored."""

    images: dict[str, Count]
    known: dict[str, dict[str, Count]]
    uncertain: dict[str, dict[str, Count]]
    unscored: dict[str, list[str]]


class DatasetPart(TypedDict, total=False):
    """The dataset; kappa is quadratic where its classes are ordered, or where that is not said, as it was before.

    Its bit depth is that of images of more than 8 bits which do not say themselves what is black and white.
    counts: images of each class, or with each finding. leaks: its images that lie, byte for byte, in another split too.
    metric: by which its methods are ranked.
    """

    title: Annotated[str | None, Column("dataset_title")]
    synthetic: bool | None
    ordered: bool | None
    bit_depth: Count | None
    split: Annotated[Split | None, Prefix("split_")]
    counts: Counts | None
    trained_on: TrainedOn | None
    findings: FindingsPart | None
    leaks: Count | None
    metric: str | None


class Input(TypedDict, total=False):
    """The images' side as it ran (px), their views with a side each, and those that training augmented."""

    effective_resolution: Positive | None
    views: dict[str, Positive] | None
    augmented: list[str] | None


class Weights(TypedDict, total=False):
    """The backbone in use, and what was asked for; of converted weights, also the digest of the file they are from.

    path: the place of the file, in records of before.
    """

    backbone: str | None
    backbone_requested: str | None
    fallback: bool | None
    file: Annotated[str | None, Column(None)]
    path: Annotated[str | None, Column(None)]
    requested: Annotated[str | None, Column(None)]
    source: Annotated[str | None, Column("weights_source")]
    sha256: Annotated[str | None, Column("weights_sha256")]
    original_sha256: Annotated[str | None, Column(None)]
    note: Annotated[str | None, Column("weights_note")]


class BackbonePart(TypedDict, total=False):
    """What the backbone is: its family, how it pools, its patches or stride (px), and its features' width."""

    family: str | None
    pool: str | None
    patch_size: Annotated[Positive | None, Column(None)]
    stride: Annotated[Positive | None, Column(None)]
    num_features: Annotated[Positive | None, Column(None)]


class Code(TypedDict, total=False):
    """The state of our code: digests of what trains any method and of the method's own files, and the commit."""

    digest: Annotated[str | None, Column("code_digest")]
    method_digest: str | None
    version: str | None
    commit: str | None
    dirty: bool | None


class Tuning(TypedDict):
    """How the learning rate was chosen, where it was."""

    chosen: Annotated[Amount, Column("tuned_lr")]
    num_trials: Annotated[Count, Column("tuned_trials")]
    at_edge: Annotated[bool, Column("tuned_at_edge")]


class Selection(TypedDict, total=False):
    """The epoch whose weights were evaluated."""

    best_epoch: Count | None


class Asked(TypedDict):
    """A method with the settings that tell its runs from others of it, as the column `variant` of tables has them."""

    method: str
    settings: dict[str, Any]


class Stopping(TypedDict):
    """The rule by which seeds were added until the answer stood, where one was followed: see `analysis.stopping`.

    look: the first at which the run's seed counted. looks: at most. level: of each look. margin: of AUC (0-1). asked:
    the methods that were to have this seed at this place; it counts against no other.
    """

    rule: str
    look: Positive
    looks: Positive
    level: Score
    margin: Score
    asked: list[Asked]


class Run(TypedDict, total=False):
    """What was run.

    names_key: tells apart the keys with which names in predictions are hashed; none where they are not.
    """

    config: Required[Config]
    method: Method | None
    dataset: DatasetPart | None
    input: Input | None
    backbone: Annotated[BackbonePart | None, Prefix("backbone_")]
    weights: Weights | None
    code: Code | None
    started: str | None
    tuning: Tuning | None
    stopping: Annotated[Stopping | None, Prefix("stopping_")]
    selection: Selection | None
    names_key: str | None
    notes: list[str] | None


class Parameters(TypedDict, total=False):
    """Numbers of parameters, and the trainable ones without the head as a percentage."""

    trainable_total: Count | None
    trainable_head: Count | None
    trainable: Count | None
    frozen: Count | None
    percent: Annotated[float, Field(ge=0, le=100 * _ONE), _FINITE, _FITS] | None


class Validation(TypedDict, total=False):
    """Scores on the validation split."""

    auc: Score | None


class Test(TypedDict, total=False):
    """Scores on the test split."""

    auc: Score | None
    accuracy: Score | None
    balanced_accuracy: Score | None
    macro_f1: Score | None
    kappa: Annotated[float, Field(ge=-_ONE, le=_ONE), _FINITE, _FITS] | None
    mae: Amount | None
    loss: Amount | None


class Epoch(TypedDict, total=False):
    """One line of the training's history."""

    epoch: Required[Count]
    val_auc: Amount | None
    val_loss: Amount | None
    loss: Amount | None
    seconds: Amount | None
    joules: Amount | None


if TYPE_CHECKING:
    Peaks = dict[str, int | None]
    Phases = dict[str, Peaks | None]
else:
    Peaks = TypedDict("Peaks", dict.fromkeys(COUNTERS, Count | None), total=False)
    Phases = TypedDict("Phases", {phase: Annotated[Peaks | None, Prefix(f"{phase}_")] for phase in PHASES}, total=False)


class Memory(TypedDict, total=False):
    """Peaks in bytes, by phase and counter."""

    phases: Phases | None
    preload_batch_size: Annotated[Count | None, Column(None)]


class Preload(TypedDict, total=False):
    """The feature cache, and what it took when it was made."""

    cache: Required[Annotated[str, Column(None)]]
    seconds: Amount | None
    batch_size: Annotated[Count | None, Column(None)]
    weights_dtype: Annotated[str | None, Column(None)]
    gpu_memory_bytes: Annotated[Count | None, Column(None)]


Seconds = TypedDict(
    "Seconds",
    {
        "total": Amount | None,
        "import": Amount | None,
        "setup": Amount | None,
        "images": Amount | None,
        "preload": Amount | None,
        "prepare": Amount | None,
        "train": Amount | None,
        "validate": Amount | None,
        "test": Amount | None,
        "predict": Amount | None,
        "other": Annotated[float, Field(ge=-1), _FINITE, _FITS] | None,  # a difference
    },
    total=False,
)


class ImagesPerSecond(TypedDict, total=False):
    """Throughput."""

    train: Amount | None
    eval: Amount | None
    preload: Amount | None


class Measurements(TypedDict, total=False):
    """What was measured."""

    parameters: Parameters | None
    val: Annotated[Validation | None, Prefix("val_")]
    test: Test | None
    history: list[Epoch] | None
    memory: Annotated[Memory | None, Prefix("measured_")]
    predicted_memory: Annotated[Memory | None, Prefix("predicted_")]
    host_peak_bytes: Count | None
    cache_bytes: Count | None
    preload: Annotated[Preload | None, Prefix("preload_")]
    seconds: Annotated[Seconds | None, Prefix("seconds_")]
    joules: Annotated[dict[str, Amount] | None, Column(None)]
    images_per_second: Annotated[ImagesPerSecond | None, Prefix("images_per_second_")]


class Environment(TypedDict, total=False):
    """Where it ran.

    process: whether it was a process of its own, or one that had done another run before and so measures no memory;
    records stored before there were such do not say it, and had one of their own.
    """

    device: str | None
    device_type: str | None
    torch: str | None
    host: Annotated[str | None, Column(None)]
    host_id: Annotated[str | None, Column(None)]
    process: Annotated[Literal["fresh", "reused"] | None, Column(None)]


class EvaluatedFindings(TypedDict, total=False):
    """Of a table of findings: its images, those of which each finding is known, and findings that are not scored."""

    images: Count
    known: dict[str, Count]
    unscored: list[str]


class EvaluationData(TypedDict, total=False):
    """The images of an evaluation: their folder's name, a digest over class, path and content, and counts by class.

    class_map: which class of the model each class folder was taken for, or which finding each column, none for one that
    was left out; null where folders or columns are named as the classes or findings are.
    """

    name: Required[Annotated[str, Column("evaluation_data")]]
    digest: Required[Annotated[str, Column("evaluation_data_digest")]]
    counts: dict[str, Count]
    class_map: dict[str, str | None] | None
    findings: EvaluatedFindings


class Soup(TypedDict, total=False):
    """A model that is the mean of the weights of several runs, which differ in their seed.

    way: `uniform` for the mean of all, `greedy` for that of those that validation chose. members: the runs that there
    were, with spaces between, best on validation first; members_sha256: over the digests of their predictions. used:
    those of them that the mean is of. best_val_auc: that of the first member alone.
    """

    way: Required[str]
    members: Required[str]
    members_sha256: Required[str]
    used: Required[str]
    best_val_auc: Required[Score]


class Evaluation(TypedDict, total=False):
    """What a trained model was evaluated on, where that is not the test split of its dataset.

    kind: `data` for the images of another folder, `soup` for those of the dataset, by a mean of weights. run_id: whose
    model it was, of a soup its best member, with the digests of that run's predictions and model: of a run that was
    done again with another result it is no more. settings: of the kind.
    """

    kind: Required[Annotated[str, Column("evaluation_kind")]]
    run_id: Required[Annotated[str, Column("evaluation_run_id")]]
    run_predictions_sha256: Required[Annotated[str | None, Column("evaluation_run_predictions_sha256")]]
    model_sha256: Required[Annotated[str, Column(None)]]
    data: Required[EvaluationData]
    soup: Annotated[Soup, Prefix("soup_")]
    settings: dict[str, Any]


class RunRecord(TypedDict):
    """The whole file.

    predictions_sha256: of the file of its predictions, where it has one; sha256: see `benchmarks.records.seal`. Records
    stored before there were these have neither. model_sha256, model_bytes: of the file of its model, where one was
    kept: it may be gone since, and is compared when it is loaded. evaluation: of the record of an evaluation, whose
    measurements and predictions are of its images, and which lies apart from those of runs.
    """

    schema: Annotated[Schema, Column(None)]
    run_id: str
    status: Status
    run: Run
    measurements: Measurements
    environment: Environment
    predictions_sha256: NotRequired[str | None]
    model_sha256: NotRequired[Annotated[str | None, Column(None)]]
    model_bytes: NotRequired[Annotated[Count | None, Column(None)]]
    evaluation: NotRequired[Evaluation]
    sha256: NotRequired[Annotated[str, Column(None)]]


def num_images(dataset: Mapping[str, Any], split: str) -> int:
    """Images of a split, by what a record says of a dataset: each has one class, or any number of findings."""
    findings = dataset.get("findings")
    return int(findings["images"][split] if findings else sum(dataset["counts"][split].values()))


RECORD = TypeAdapter(RunRecord)


class Place(NamedTuple):
    """Where a column's value lies in a record, and its type there."""

    path: tuple[str, ...]
    kind: type


def _columns(kind: Any, path: tuple[str, ...] = (), prefix: str = "") -> Iterator[tuple[str, Place]]:
    """The columns of an object, those of objects inside with it."""
    for key, hint in get_type_hints(kind, include_extras=True).items():
        found, marks = _unwrapped(hint)
        column = next((mark.name for mark in marks if isinstance(mark, Column)), prefix + key)
        inner = "".join(mark.text for mark in marks if isinstance(mark, Prefix))
        if is_typeddict(found):
            yield from _columns(found, (*path, key), prefix + inner)
        elif found in (str, int, float, bool) and column is not None:
            yield column, Place((*path, key), found)


def _unwrapped(hint: Any, marks: tuple[Any, ...] = ()) -> tuple[Any, tuple[Any, ...]]:
    """The type within a type hint that is there or null, and what it is annotated with."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _unwrapped(inner[0], (*marks, *inner[1:]))
    if origin in (Required, NotRequired):
        return _unwrapped(inner[0], marks)
    if origin in (Union, types.UnionType):
        return _unwrapped(next(kind for kind in inner if kind is not type(None)), marks)
    return (type(inner[0]) if origin is Literal else hint), marks


COLUMNS = dict(_columns(RunRecord))
