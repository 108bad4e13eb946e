"""The columns of scores beside AUC, and what is said of them."""

from collections.abc import Callable, Iterator

import pandas as pd

from benchmarks.analysis.calibration import NUM_BINS
from benchmarks.analysis.extra_scores import MOST_FPR, SCORES
from benchmarks.analysis.headline import headline_of, unclear
from benchmarks.analysis.resamples import NUM_RESAMPLES
from benchmarks.choices import AUC
from benchmarks.report.entries import Column, Entry

HEADLINE = ", headline"  # at the end of the header of the metric that a dataset is about
_SHORT = {
    **{"auprc": "AUPRC\n%", "partial_auc": "pAUC\n%", "sensitivity_90": "Sens.\nat 90 %", "mcc": "MCC"},
    **{"sensitivity_95": "Sens.\nat 95 %", "kappa": "Kappa", "quadratic_kappa": "Kappa\nquadr.", "accuracy": "Acc.\n%"},
    **{"balanced_accuracy": "Bal.\nacc. %", "macro_f1": "Macro\nF1 %", "brier": "Brier", "ece": "ECE\n%"},
    **{"brier_scaled": "Brier\nscaled", "ece_scaled": "ECE\nscaled", "classwise_ece": "cw-ECE\n%"},
    **{"classwise_ece_scaled": "cw-ECE\nscaled", "mae": "MAE"},
}
SCORES_SAID = (
    "Scores are mean ± sample standard deviation over seeds, in brackets the 95 % interval of the mean, over images "
    f"(or patients, where groups are known; {NUM_RESAMPLES} resamples, the same for all seeds) and over seeds. "
    "AUPRC (average precision), partial AUC and sensitivity are of the second of two classes, and of more the mean "
    f"over classes, one against the rest; partial AUC is that up to a false-positive rate of {MOST_FPR}, from 50 for "
    "chance to 100 (McClish); sensitivity is at the threshold that has the specificity on validation. MCC: of all "
    "classes at once (Gorodkin). Mean absolute error: in grades. Brier: the squared distance summed over classes, 0 to "
    "2. ECE: expected calibration "
    f"error of the likeliest class over {NUM_BINS} bins of equal width; classwise: the mean over classes of that of "
    "their probabilities; a finite test split raises both. Scaled: with the temperature that fits validation best."
)


def score_title(name: str) -> str:
    """What a metric is called in a sentence."""
    return "AUC" if name == AUC else SCORES[name].title


def shown_scores(block: pd.DataFrame) -> list[str]:
    """The scores that a block has columns of."""
    return [name for name in SCORES if f"{name}_low" in block and block[f"{name}_mean"].notna().any()]


def score_columns(block: pd.DataFrame) -> Iterator[Column]:
    """The columns of the scores that were asked for, the headline metric first."""
    headline = headline_of(block)
    for name in sorted(shown_scores(block), key=lambda name: name != headline):
        score = SCORES[name]
        header = f"{score.title} (%)" if score.percent else score.title
        mark = HEADLINE if name == headline else ""
        yield Column(header + mark, _SHORT[name], score.better, _entry(name, brief=False))


def brief_columns(block: pd.DataFrame) -> list[Column]:
    """The same for a terminal, without intervals."""
    return [
        Column(SCORES[name].title, _SHORT[name], SCORES[name].better, _entry(name, brief=True))
        for name in shown_scores(block)
    ]


def _entry(name: str, brief: bool) -> Callable[[pd.Series], Entry]:
    scale, digits = (100, 2) if SCORES[name].percent else (1, 3)

    def entry(row: pd.Series) -> Entry:
        mean, sd, low, high = (row[f"{name}_{part}"] for part in ("mean", "sd", "low", "high"))
        if pd.isna(mean):
            return Entry("–")
        spread = "" if pd.isna(sd) else f" ± {scale * sd:.{digits}f}"
        ends = "" if brief or pd.isna(low) else f" ({scale * low:.{digits}f} to {scale * high:.{digits}f})"
        return Entry(f"{scale * mean:.{digits}f}{spread}{ends}".replace("-", "−"), competes=row["complete"])

    return entry


def headline_notes(block: pd.DataFrame) -> Iterator[str]:
    """By what the methods of a block are ranked, where that is not plainly AUC."""
    headline = headline_of(block)
    if headline != AUC:
        yield (
            f"Headline metric of this dataset: {score_title(headline)}, by which methods are ranked over datasets. "
            "Comparisons with full fine-tuning and with the best are of AUC, and so is the choice of epoch and rate."
        )
    elif why := unclear(block):
        yield why
