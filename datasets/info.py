"""What the suite knows about a dataset beyond its prepared folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.choices import HEADLINES, one_of
from benchmarks.raw.files import RawFile, RawFiles

SEPARATOR, UNSURE, UNKNOWN = "|", "?", "~"  # in the label of an image with findings


def finding_label(there: Sequence[str], uncertain: Sequence[str] = (), unknown: Sequence[str] = ()) -> str:
    """The label of an image with findings: names of those that are there, of uncertain and unknown ones with a mark."""
    marked = [f"{name}{mark}" for names, mark in ((uncertain, UNSURE), (unknown, UNKNOWN)) for name in names]
    return SEPARATOR.join([*there, *marked])


@dataclass(frozen=True)
class RawSample:
    """One labelled image of a raw download.

    Attributes:
        file: Holds the image.
        label: Name of its class, or its findings as `finding_label` writes them.
        group: Patient, exam, lesion or case; images of one group stay in one split.
        stem: Name of the prepared file without suffix; no two of a dataset are alike.
        split: `train`, `val` or `test` where the publisher says so; None where we split.
    """

    file: RawFile
    label: str
    group: str
    stem: str
    split: str | None = None


@dataclass(frozen=True)
class Found:
    """What a dataset's file makes of a raw download.

    Attributes:
        samples: The labelled images.
        counts: Further counts to compare with `DatasetInfo.expected`, such as rows of the label table.
        missing: Ids that are listed but have no image.
        unlabelled: Images that should be listed but are not.
        excluded: Images left out on purpose, and why.
        notes: What the user should know.
        unreadable: Images whose header is needed and cannot be read, and why.
        ungrouped: Why the groups are not known and what to do; empty where they are.
    """

    samples: list[RawSample]
    counts: Mapping[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    excluded: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    ungrouped: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset; its prepared folder is `<data root>/<name>/{train,val,test}/<class>/`.

    Attributes:
        name: Name on the command line and of the folder.
        title: Name in tables and plots.
        classes: Folder names in class order, or names of findings.
        mean: Normalisation mean per RGB channel, of pixels in [0, 1]; None to compute it over the training images.
        std: Normalisation standard deviation per RGB channel; None where the mean is.
        metric: Headline metric, by which methods are ranked: one of `choices.HEADLINES`.
        epochs: Default number of epochs.
        batch_size: Default images a step.
        synthetic: Whether the images are generated; never to be mistaken for clinical data.
        ordered: Whether the classes are grades, each more than the one before.
        findings: Whether an image may have several of the classes, or none: they are findings, and a table says which.
        bit_depth: Of its images of more than 8 bits that do not say what is black and white; None to find it.
        url: Where the raw images come from.
        download: What to fetch there, one step a line.
        parts: Split archives among it, and how many parts each has.
        licence: Terms of the images.
        citation: What to cite.
        group_key: What a group is: exam, lesion, patient, case or image.
        official: The splits that the publisher made; the others are ours.
        expected: Published counts: `total`, `<class>`, `<official split>`, `<official split>/<class>`, and those
            that `find` adds.
        signature: Regular expression that names of its raw files match, to tell which dataset a folder holds.
        mistaken: Other sets that are taken for this one: a name for people, and a regular expression that names of
            their files match.
        find: Finds the labelled images in a raw download; None where there is nothing to prepare. Raises
            `NotFoundError` with what it looked for, or UserError.
        generate: Writes the whole dataset into an empty folder; None where the user must prepare it.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    metric: str = "auc"
    epochs: int = 20
    batch_size: int = 16
    synthetic: bool = False
    ordered: bool = False
    findings: bool = False
    bit_depth: int | None = None
    url: str = ""
    download: tuple[str, ...] = ()
    parts: Mapping[str, int] = field(default_factory=dict)
    licence: str = ""
    citation: str = ""
    group_key: str = "image"
    official: tuple[str, ...] = ()
    expected: Mapping[str, int] = field(default_factory=dict)
    signature: str = ""
    mistaken: Mapping[str, str] = field(default_factory=dict)
    find: Callable[[RawFiles], Found] | None = None
    generate: Callable[[Path], None] | None = None

    def __post_init__(self) -> None:
        one_of("metric", HEADLINES, self.metric)

    @property
    def expected_counts(self) -> dict[str, int] | None:
        """Published images of each class in all splits together; None where that is not known for every class."""
        counts: dict[str, int] = {}
        if self.findings:
            return None
        for name in self.classes:
            per_split = [self.expected.get(f"{split}/{name}") for split in self.official]
            known = [number for number in per_split if number is not None]
            whole = self.expected.get(name) or (sum(known) if known and len(known) == len(per_split) else None)
            if whole is None:
                return None
            counts[name] = whole
        return counts
