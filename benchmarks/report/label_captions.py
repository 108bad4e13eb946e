"""What tables and figures say of methods over the number of training labels."""

from collections.abc import Sequence

import pandas as pd

from benchmarks.analysis.label_curves import Overtaking

NO_OVERTAKING = "No curve crosses another"
LABELS_SAID = (
    "Labels were drawn once: smaller sets are parts of larger ones, and every method and seed has the same, so that "
    "intervals leave out what another draw would change. Validation and test images are the same for all."
)


def steps_said(keep_steps: bool) -> str:
    """What is equal for all numbers of labels."""
    return (
        "An epoch takes as many steps with few labels as with all."
        if keep_steps
        else ("Epochs are equal, so that fewer labels mean fewer steps.")
    )


def overtaken(found: Sequence[Overtaking], sizes: pd.Series) -> str:
    """Which method overtakes which from how many labels on, in sentences.

    Args:
        found: of one resolution.
        sizes: the numbers of labels that were run.
    """
    if not found:
        return f"{NO_OVERTAKING}."
    smallest, largest = int(sizes.min()), int(sizes.max())
    said = [_one(entry, smallest, largest) for entry in found]
    together = " (95 % intervals, which hold together)" if any(entry.known for entry in found) else ""
    of_models = " One seed: of these trained models, no claim about the methods." * (found[0].num_seeds == 1)
    return (
        f"From which number of labels on a method is ahead, AUC on a straight line over its logarithm{together}: "
        + (f"{'; '.join(said)}.{of_models}")
    )


def _one(entry: Overtaking, smallest: int, largest: int) -> str:
    what = f"{entry.ahead} overtakes {entry.behind} at {entry.labels:.0f}"
    if not entry.known:
        return f"{what} (no interval: too few test units or no predictions)"
    low = f"under {smallest}" if entry.low is None else f"{entry.low:.0f}"
    high = f"over {largest}" if entry.high is None else f"{entry.high:.0f}"
    open_ended = ", so that either may be ahead everywhere" if entry.low is None and entry.high is None else ""
    return f"{what} ({low} to {high}{open_ended})"
