"""Runs on several backbones in one table: whether one with full fine-tuning beats all that is done to another."""

import json

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
    variants = [_on(name, variant) for variant, name in zip(runs["variant"], names, strict=True)]
    asked = [
        text if pd.isna(text) else json.dumps([(method, _on(name, variant)) for method, variant in json.loads(text)])
        for text, name in zip(runs["stopping_asked"], names, strict=True)
    ]
    runs = runs.assign(stopping_asked=pd.Series(asked, runs.index, dtype="object"))
    return runs.assign(variant=variants, backbone=SEVERAL, weights_source=OWN, weights_sha256=None)


def _on(backbone: str, variant: str) -> str:
    settings = {name: value for name, value in json.loads(variant).items() if name not in _REPLACED}
    return json.dumps(settings | {ON: backbone}, sort_keys=True)


def _names(runs: pd.DataFrame) -> pd.Series:
    """Each run's backbone, and where there are several weights of it, which."""
    backbones = runs["backbone"].fillna("unknown")
    weights = runs["weights_sha256"].str[:8].fillna(runs["weights_source"]).fillna("unknown")
    several = weights.groupby(backbones).transform("nunique") > 1
    return backbones.where(~several, backbones + " with weights " + weights)
