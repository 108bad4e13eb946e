"""Whether a training had come to its end when its epochs did, as far as its history tells.

A training that learns the class shares and nothing else has the loss of answering them, their entropy: until its loss
lies clearly below that, it has not begun to learn from the images. One whose validation AUC was still rising when its
epochs ran out was cut short. In both cases a low score says little of the method, and more epochs may raise it.
"""

from collections.abc import Sequence

import pandas as pd

LEARNT = 0.05  # least share of the entropy of the classes by which a training loss must have fallen below it
RISE = 0.01  # AUC: less than this over the last epochs is noise of a validation split
LAST = 0.2  # share of the epochs that are the last ones, at least one

NO_FALL = "training loss not below that of answering the class shares"
RISING = "best epoch is the last and still rising"
ONE_EPOCH = "one epoch cannot tell"


def not_converged(losses: Sequence[float], val_aucs: Sequence[float], entropy: float | None) -> str | None:
    """Why a training counts as not converged; None where it counts as converged, or its history is not known.

    1. `ONE_EPOCH`: nothing can rise or fall within one epoch.
    2. `NO_FALL`: the mean loss of the last epochs is above (1 - `LEARNT`) times the entropy of the classes. Where that
       is not known, the loss of the first epoch takes its place.
    3. `RISING`: no epoch has a higher validation AUC than the last one, and it is higher by more than `RISE` than
       every epoch before the last ones. An AUC of 1 cannot rise any more.

    The last epochs are the last fifth of all, rounded, at least one.

    Args:
        losses: Mean training loss by epoch (cross-entropy in nats).
        val_aucs: Validation AUC by epoch (0-1).
        entropy: Of the classes of the training split (nats).
    """
    epochs = len(val_aucs)
    if epochs == 0 or len(losses) != epochs:
        return None
    if epochs == 1:
        return ONE_EPOCH
    last = max(1, round(LAST * epochs))
    start = losses[0] if entropy is None else entropy
    if sum(losses[-last:]) / last > (1 - LEARNT) * start:
        return NO_FALL
    final = val_aucs[-1]
    if final < 1 and final == max(val_aucs) and final - max(val_aucs[:-last]) > RISE:
        return RISING
    return None


def reasons(runs: pd.DataFrame) -> pd.Series:
    """Of each run why it counts as not converged, missing where it does not.

    Args:
        runs: as `records.runs_frame` gives them.
    """
    histories = zip(runs["train_losses"], runs["val_aucs"], runs["class_entropy"], strict=True)
    found = [
        not_converged(losses, aucs, None if pd.isna(entropy) else float(entropy)) for losses, aucs, entropy in histories
    ]
    return pd.Series(found, runs.index, dtype="object")


def in_words(found: pd.Series) -> str | None:
    """What a cell says of its runs: how many of how many seeds, and why; None where all have converged.

    Args:
        found: the `reasons` of the runs of one cell.
    """
    counts = found.dropna().value_counts(sort=False)
    if counts.empty:
        return None
    if len(found) == 1:
        return str(counts.index[0])
    return "; ".join(f"{count} of {len(found)} seeds: {why}" for why, count in counts.items())
