"""What a comparison of methods over datasets says about itself, as plain text."""

import math
from collections.abc import Iterable, Mapping

from benchmarks.analysis.inference import LEVEL
from benchmarks.analysis.ranks import MIN_DATASETS, DatasetsComparison, Ranking, ToFull
from benchmarks.report.columns import shown_p
from benchmarks.report.score_columns import score_title

_MOST_LACKING = 8  # named in a sentence


TO_FULL = (
    "To full: the Hodges-Lehmann median, over datasets, of the differences of mean AUC to full fine-tuning, with its "
    "own 95 % interval (none under six datasets), and the exact two-sided p of Wilcoxon's signed-rank test, "
    "Holm-corrected over the methods of one resolution; a dataset without a difference counts against either side."
)


def ranks(found: Ranking, metrics: Mapping[str, str]) -> str:
    """What stands behind average ranks by datasets' headline metrics, and how far they may be trusted."""
    f = "∞" if math.isinf(found.f) else f"{found.f:.2f}"
    return (
        f"Average ranks by mean {_ranked_by(found, metrics)}, 1 the best, over {len(found.datasets)} datasets: "
        f"{', '.join(found.datasets)}. "
        f"Iman-Davenport F {f}, p\u00a0{shown_p(found.p)} by permutation; Nemenyi critical difference "
        f"{found.critical:.2f} at {LEVEL}: methods whose average ranks lie closer are not told apart."
    )


def _ranked_by(found: Ranking, metrics: Mapping[str, str]) -> str:
    """The metric of all datasets, or of each."""
    titles = {name: score_title(metrics[name]) for name in found.datasets}
    if len(set(titles.values())) == 1:
        return next(iter(titles.values()))
    return f"headline metric ({', '.join(f'{title} of {name}' for name, title in titles.items())})"


def least_p(found: DatasetsComparison) -> str:
    """What p so few datasets can give at best, in one sentence; empty where it may be significant."""
    most = max((entry.num_datasets for entry in found.to_full.values()), default=0)
    least = len(found.to_full) * 2.0 ** (1 - most)  # all differences of one sign, then Holm's first step
    return f"With {most} datasets no p to full can be under {min(least, 1):.3f}." if least > LEVEL else ""


def difference(entry: ToFull) -> str:
    """A difference to full fine-tuning over datasets, in percent points with its interval."""
    median, low, high, _ = entry.differences
    ends = "" if low is None or high is None else f" ({100 * low:+.2f} to {100 * high:+.2f})"
    return f"{100 * median:+.2f}{ends}".replace("-", "−")


def differences(found: DatasetsComparison, labels: Iterable[str]) -> str:
    """The methods against full fine-tuning, in the order of the labels; empty where none can be compared."""
    shown = [
        f"{label} {difference(found.to_full[label])}, p\u00a0{shown_p(found.to_full[label].p_holm)}"
        for label in labels
        if label in found.to_full
    ]
    what = "To full fine-tuning, median over datasets with its 95 % interval and Wilcoxon's p, Holm-corrected"
    return f"{what}: {'; '.join(shown)}." if shown else ""


def lacking(found: DatasetsComparison) -> str:
    """What took no part in a comparison over datasets, in one sentence; empty where everything did."""
    return f"L{_listed(found)[1:]}." if found.lacking else ""


def unranked(comparisons: Iterable[DatasetsComparison]) -> list[str]:
    """Why there are no ranks: a sentence for each reason, with the resolutions where it holds."""
    reasons: dict[str, list[str]] = {}
    for found in comparisons:
        if isinstance(found.ranking, str) and len(found.labels) > 1:
            enough = found.num_datasets >= MIN_DATASETS
            reason = f"{found.ranking} ({_listed(found)})" if enough and found.lacking else found.ranking
            reasons.setdefault(reason, []).append(str(found.resolution))
    return [f"at {' and '.join(sides)} px {reason}" for reason, sides in reasons.items()]


def _listed(found: DatasetsComparison) -> str:
    more = len(found.lacking) - _MOST_LACKING
    cells = ", ".join(found.lacking[:_MOST_LACKING]) + (f" and {more} more" if more > 0 else "")
    return f"left out, for want of all seeds: {cells}"
