"""Names that more than one room uses, each defined once, and how a wrong one is refused."""

import difflib
from collections.abc import Iterable
from typing import Literal, get_args

from benchmarks.errors import UserError

SPLITS = ("train", "val", "test")
PHASES = ("setup", "preload", "prepare", "train", "eval")  # of a run, in the order they happen
# Ways to show what a model looks at, in the order of what is taken where none is named.
MAPS = ("attention", "rollout", "grad-cam", "occlusion")
SoupWay = Literal["uniform", "greedy"]  # how a mean of weights is made
SOUP_WAYS: tuple[SoupWay, ...] = get_args(SoupWay)
COUNTERS = ("peak_allocated_bytes", "peak_reserved_bytes", "peak_process_bytes")  # of a phase's memory
DEFAULT_BACKBONE = "vit_base_patch16_384"
CARDS_GB = (8, 12, 16, 24, 40, 80)  # sold as GB, and hold about as many GiB
# Cards by name, without spaces and hyphens, and the GB that each is sold with (vendors' data sheets).
CARDS = {
    **{"gtx1080ti": (11,), "titanrtx": (24,), "rtx2080ti": (11,), "rtx3060": (12,), "rtx3080": (10, 12)},
    **{"rtx3090": (24,), "rtx4060ti": (8, 16), "rtx4070": (12,), "rtx4080": (16,), "rtx4090": (24,), "rtx5090": (32,)},
    **{"rtxa4000": (16,), "rtxa5000": (24,), "rtxa6000": (48,), "p100": (16,), "v100": (16, 32), "t4": (16,)},
    **{"a10": (24,), "a40": (48,), "l4": (24,), "l40s": (48,), "a100": (40, 80), "h100": (80,), "h200": (141,)},
}
FEW_UNITS = 10  # patients, or else images, of a class: with fewer, what is said of an AUC rests on next to nothing
AUC = "auc"
# What `tables --metrics` names, and the scores that are shown for it.
SCORE_FAMILIES: dict[str, tuple[str, ...]] = {
    **{AUC: (), "auprc": ("auprc",), "partial_auc": ("partial_auc",)},  # AUC is always there
    **{"sensitivity": ("sensitivity_90", "sensitivity_95"), "mcc": ("mcc",), "kappa": ("kappa", "quadratic_kappa")},
    **{"mae": ("mae",), "accuracy": ("accuracy",), "balanced_accuracy": ("balanced_accuracy",)},
    **{"macro_f1": ("macro_f1",), "brier": ("brier", "brier_scaled"), "ece": ("ece", "ece_scaled")},
    "classwise_ece": ("classwise_ece", "classwise_ece_scaled"),
}
# What a dataset may declare to be its headline metric; kappa is the one that belongs to its classes.
HEADLINES = (AUC, *(name for family in SCORE_FAMILIES.values() for name in family if name != "quadratic_kappa"))
# Files that come with images and are none; names in lower case.
LITTER = frozenset(
    {"thumbs.db", "desktop.ini", "__macosx", "attribution.txt", "license.txt", "readme.txt", "readme.md"}
)


def one_of(kind: str, known: Iterable[str], name: str) -> str:
    """Checks a name against a table.

    Raises:
        UserError: It is not in it; the message has the nearest name and all choices.
    """
    names = list(known)
    if name not in names:
        raise UserError(not_one_of(kind, names, name))
    return name


def nearest(known: Iterable[str], value: str, cutoff: float = 0.6) -> str | None:
    """The name that is most like a value; None where none is as like it as `cutoff` says, from 0 to 1."""
    near = difflib.get_close_matches(value, list(known), n=9, cutoff=cutoff)
    swapped = [name for name in near if sorted(name) == sorted(value)]  # two letters, as often
    return next(iter(swapped or near), None)


def not_one_of(kind: str, known: Iterable[str], value: object) -> str:
    """Says that a value is not in a table, with the nearest name and all choices."""
    names = list(known)
    if not names:
        return f"{kind} must be one of those there are, and there are none, got {value!r}"
    near = nearest(names, value) if isinstance(value, str) else None
    hint = f"; did you mean {near}?" if near else ""
    if isinstance(value, str) and "," in value and all(part in names for part in value.split(",")):
        hint = f"; names stand apart: {value.replace(',', ' ')}"
    return f"{kind} must be one of {', '.join(names)}, got {value!r}{hint}"
