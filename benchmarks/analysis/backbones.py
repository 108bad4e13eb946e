"""Runs on several backbones in one table: whether one with full fine-tuning beats all that is done to another."""

import json
from typing import Any

import pandas as pd

SEVERAL = "several backbones"
OWN = "own"  # as the source of weights: each backbone's
ON = "on backbone"  # among the settings of a run, in the place of these:
_REPLACED = ("backbone", "weights", "weights_sha256")


def across_backbones(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs as of one protocol where they differ in backbone and weights alone, which tell rows of a method apart.

    Args:
        runs: As `records.runs_frame` gives them; those on one backbone alone come back as they are.
    """
    names = _names(runs)
    if names.nunique() < 2:
        return runs
    variants = [
        json.dumps(_without(json.loads(variant)) | {ON: name}, sort_keys=True)
        for variant, name in zip(runs["variant"], names, strict=True)
    ]
    return runs.assign(variant=variants, backbone=SEVERAL, weights_source=OWN, weights_sha256=None)


def _without(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _REPLACED}


def _names(runs: pd.DataFrame) -> pd.Series:
    """Each run's backbone, and where there are several weights of it, which."""
    backbones = runs["backbone"].fillna("unknown")
    weights = runs["weights_sha256"].str[:8].fillna(runs["weights_source"]).fillna("unknown")
    several = weights.groupby(backbones).transform("nunique") > 1
    return backbones.where(~several, backbones + " with weights " + weights)
