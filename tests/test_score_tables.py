"""Scores beside AUC in tables: by choice, with intervals over patients and seeds; the headline metric of a dataset."""

import dataclasses
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixed_records import make_record, store_with_predictions
from numpy.typing import NDArray
from scipy import optimize, stats
from sklearn.metrics import average_precision_score

from bench import main
from benchmarks.analysis import run_scores
from benchmarks.analysis.curves import load_curves
from benchmarks.analysis.extra_scores import SCORES
from benchmarks.analysis.headline import NOTHING, chosen_scores, load_wanted, with_scores
from benchmarks.analysis.ranks import Ranking, compare_over_datasets
from benchmarks.analysis.run_scores import RunScores, load_scores, read_scores
from benchmarks.analysis.score_intervals import score_interval
from benchmarks.analysis.summary import summary
from benchmarks.choices import HEADLINES, SCORE_FAMILIES
from benchmarks.errors import UserError
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import load_records, store_run
from benchmarks.records.schema import Record
from benchmarks.report.page_data import collect
from datasets import DATASETS


def stored(results: Path, *records: Record, skill: float = 1.0) -> pd.DataFrame:
    for record in records:
        store_with_predictions(results, record, skill)
    return runs_frame(load_records(results)[0])


def run(seed: int = 0, method: str = "lora", **dataset: object) -> Record:
    record = make_record(method, seed=seed)
    record["run"]["dataset"] |= dataset
    return record


def by_method(table: pd.DataFrame) -> dict[str, dict[Any, Any]]:
    return {row["method"]: row for row in table.to_dict("records")}


def test_scores_of_a_file_are_those_of_its_test_images(tmp_path: Path) -> None:
    frame = store_with_predictions(tmp_path, run(), 1.0)
    (found,) = load_scores(tmp_path, runs_frame(load_records(tmp_path)[0]))[0].values()
    values = dict(zip(SCORES, found.values.tolist(), strict=True))
    positive = frame["label"] == "yes"
    assert values["auprc"] == pytest.approx(average_precision_score(positive, frame["prob_yes"]))
    assert values["brier"] == pytest.approx(2 * ((frame["prob_yes"] - positive) ** 2).mean())
    assert found.fewest == 30
    assert found.resampled.shape == (200, len(SCORES))


def test_scores_are_kept_and_read_again(tmp_path: Path) -> None:
    frame = stored(tmp_path, run())
    (first,) = load_scores(tmp_path, frame)[0].values()
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(run_scores, "read_scores")
        (again,) = load_scores(tmp_path, frame)[0].values()
    assert (first.images, first.temperature, first.fewest) == (again.images, again.temperature, again.fewest)
    np.testing.assert_array_equal(first.resampled, again.resampled)


def test_without_metrics_no_scores_are_made(tmp_path: Path) -> None:
    assert load_wanted(tmp_path, stored(tmp_path, run())) == NOTHING
    assert not (tmp_path / ".statistics").exists()


def test_seeds_and_methods_share_their_resamples(tmp_path: Path) -> None:
    """Runs with the same predictions have the same resamples, so that their mean varies as one of them does."""
    frame = store_with_predictions(tmp_path, run(), 1.0)
    content = pd.concat([frame.assign(split="val"), frame]).to_csv(index=False).encode()
    one = read_scores(content)
    np.testing.assert_array_equal(one.resampled, read_scores(content).resampled)
    alone, twice = score_interval("auprc", [one]), score_interval("auprc", [one, one])
    assert alone is not None and twice is not None
    assert (alone.se_seeds, twice.se_seeds, twice.sd) == (None, 0, 0)
    assert (twice.se_images, twice.low, twice.high) == pytest.approx((alone.se_images, alone.low, alone.high))


def made(values: list[float], spread: float) -> list[RunScores]:
    """Runs whose every score is this, with resamples of that standard deviation that no two share."""
    rng = np.random.default_rng(0)
    drawn = [(value + spread * rng.normal(size=(200, len(SCORES)))).astype(np.float32) for value in values]
    pairs = zip(values, drawn, strict=True)
    return [RunScores("images", np.full(len(SCORES), value), each, 1.0, 50, 2) for value, each in pairs]


def test_the_interval_is_wilsons_of_the_images_that_would_have_that_variance() -> None:
    """A share of 0.8 whose standard error is that of 100 images, t with 99 degrees of freedom."""
    (one,) = made([0.8], 0.04)
    exact = one._replace(resampled=one.resampled * 0 + np.float32(0.8) + np.float32(0.04) * _unit(200))
    found = score_interval("auprc", [exact])
    assert found is not None and found.se_images == pytest.approx(0.04, rel=1e-4)
    critical = stats.t.isf(0.025, 99)

    def outside(share: float) -> float:
        return float((share - 0.8) ** 2 - critical**2 * share * (1 - share) / 100)

    expected = optimize.brentq(outside, 0.5, 0.8), optimize.brentq(outside, 0.8, 0.99)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-4)


def _unit(number: int) -> NDArray[np.float32]:
    """A column whose sample standard deviation is 1."""
    values = np.linspace(-1, 1, number)
    return (values / values.std(ddof=1)).astype(np.float32)[:, None]


def test_intervals_stay_within_the_range_of_a_score_and_widen_with_seeds() -> None:
    for name, score in SCORES.items():
        high = 1.0 if score.high is None else score.high
        for value in (score.low, high, 0.5):
            found = score_interval(name, made([value], 0.0))
            assert found is not None and score.low <= found.low <= value <= found.high <= high, name
            assert found.high - found.low > 0.01
    widths = []
    for values in ([0.8, 0.8, 0.8], [0.75, 0.8, 0.85]):
        found = score_interval("auprc", made(values, 0.01))
        assert found is not None
        widths.append(found.high - found.low)
    assert widths[1] > 2 * widths[0]


def test_patients_widen_the_interval(tmp_path: Path) -> None:
    """Each patient has the same image six times over: as many images, a sixth of the information."""
    frame = store_with_predictions(tmp_path, run(), 1.0, num_images=60)
    copies = pd.concat([frame.assign(path=frame["path"] + str(i), group=frame["path"]) for i in range(6)])
    widths = []
    for rows in (frame, copies, copies.drop(columns="group")):
        found = score_interval("auprc", [read_scores(rows.to_csv(index=False).encode())])
        assert found is not None
        widths.append(found.se_images)
    assert widths[1] == pytest.approx(widths[0], rel=0.2)
    assert widths[2] < 0.6 * widths[0]


def test_chosen_scores_are_families_in_one_order() -> None:
    assert chosen_scores(["ece", "auprc", "auc", "ece"]) == ["auprc", "ece", "ece_scaled"]
    assert chosen_scores(["all"]) == list(SCORES)
    assert {name for names in SCORE_FAMILIES.values() for name in names} == set(SCORES)
    with pytest.raises(UserError, match=r"metrics must be one of auc, auprc, .*, got 'auprcs'; did you mean auprc\?"):
        chosen_scores(["auprcs"])


def test_tables_show_the_scores_that_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path, *(run(seed, method) for seed in range(2) for method in ("full", "lora")))
    assert main(["tables", "--results", str(tmp_path), "--metrics", "auprc", "ece"]) == 0
    out, err = capsys.readouterr()
    assert out.split() == [str(tmp_path / "tables" / f"results.{ending}") for ending in ("md", "csv", "tex")]
    assert "AUPRC" in err and "ECE" in err and "MCC" not in err
    text = (tmp_path / "tables" / "results.md").read_text()
    csv = pd.read_csv(tmp_path / "tables" / "results.csv")
    row = by_method(csv)["lora"]
    shown = " ± ".join(f"{100 * row[f'auprc_{part}']:.2f}" for part in ("mean", "sd"))
    assert f"{shown} ({100 * row['auprc_low']:.2f} to {100 * row['auprc_high']:.2f})" in text
    assert " AUPRC (%) ↑ " in text
    assert "ECE, scaled (%) ↓" in text and "McClish" in text and "mcc_mean" not in csv
    assert r"AUPRC (\%) $\uparrow$" in (tmp_path / "tables" / "results.tex").read_text()
    assert main(["tables", "--results", str(tmp_path)]) == 0
    assert "AUPRC" not in (tmp_path / "tables" / "results.md").read_text()
    assert capsys.readouterr().err == ""


def test_the_least_calibration_error_is_the_best(tmp_path: Path) -> None:
    frame = stored(tmp_path, run(method="full"), skill=3)
    frame = stored(tmp_path, run(method="lora"), skill=0.2)
    assert main(["tables", "--results", str(tmp_path), "--metrics", "brier", "mcc"]) == 0
    rows = by_method(with_scores(summary(frame), load_wanted(tmp_path, frame, ["brier"])))
    assert rows["full"]["brier_mean"] < rows["lora"]["brier_mean"]
    lines = (tmp_path / "tables" / "results.md").read_text().splitlines()
    (line,) = [line for line in lines if "| Full fine-tuning" in line]
    assert f"**{rows['full']['brier_mean']:.3f} (" in line


def test_the_page_shows_the_scores_that_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path, *(run(seed, method) for seed in range(2) for method in ("full", "lora")))
    assert main(["report", "--results", str(tmp_path), "--metrics", "mcc"]) == 0
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "report.html").read_text())
    assert data is not None
    titles = [column["title"] for column in json.loads(data[1])["columns"]]
    assert "MCC" in titles and "AUPRC (%)" not in titles
    capsys.readouterr()
    assert main(["report", "--results", str(tmp_path), "--metrics", "mmc"]) == 2
    assert "did you mean mcc?" in capsys.readouterr().err


def test_the_page_holds_the_curves_of_each_row(tmp_path: Path) -> None:
    frame = stored(tmp_path, *(run(seed, method) for seed in range(2) for method in ("full", "lora")))
    data = collect(tmp_path, tmp_path)
    (part,) = data.parts.values()
    found = json.loads(gzip.decompress(part))["curves"]
    assert found.keys() == {str(row) for row in data.shown["runs"]["row"]}
    label = data.shown["rows"][data.shown["runs"]["row"][0]]["method"]
    own = [load_curves(tmp_path, frame)[run_id] for run_id in frame.loc[frame["method"] == label, "run_id"]]
    shown = found[str(data.shown["runs"]["row"][0])]
    assert shown["roc"]["mean"] == [round(1000 * x) for x in np.mean([each.values["roc"][0] for each in own], axis=0)]
    assert set(shown) == {"roc", "pr", "reliability", "scaled"}
    filled = [share for share in shown["reliability"]["beside"][1] if share]
    assert sum(filled) == pytest.approx(1000, abs=8)
    assert (
        min(half for half, x in zip(shown["scaled"]["half"], shown["scaled"]["mean"], strict=True) if x is not None) > 0
    )


@pytest.mark.parametrize("option", [["--layout", "paper"], ["--compare", "."]])
def test_metrics_go_with_the_table_of_results(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tables", "--results", str(tmp_path), "--metrics", "ece", *option]) == 2
    assert "metrics must be used without --compare and --layout paper, got ece" in capsys.readouterr().err


def test_kappa_is_the_one_that_the_dataset_declares(tmp_path: Path) -> None:
    for name, ordered, classes in (("a", True, ("0", "1", "2")), ("b", False, ("x", "y", "z"))):
        record = run(name=name, title=name, ordered=ordered)
        record["run_id"] += name
        record["run"]["config"]["dataset"] = name
        record["measurements"]["test"]["kappa"] = 0.5
        store_with_predictions(tmp_path, record, 1.0, classes)
    frame = runs_frame(load_records(tmp_path)[0])
    table = with_scores(summary(frame), load_wanted(tmp_path, frame, ["kappa"])).set_index("dataset")
    assert table["quadratic_kappa_low"].notna().to_dict() == {"a": True, "b": False}
    assert table["kappa_low"].notna().to_dict() == {"a": False, "b": True}


def test_predictions_that_cannot_be_scored_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The test images are as they should be, so nothing but the scores misses the class of a validation image."""
    record = run()
    frame = store_with_predictions(tmp_path, record, 1.0)
    other = pd.concat([frame, frame.head(1).assign(split="val", label="maybe")])
    store_run(tmp_path, record, other)
    assert main(["tables", "--results", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["tables", "--results", str(tmp_path), "--metrics", "mcc"]) == 1
    assert "the labels of the val split must be the classes that have a prob_<class>" in capsys.readouterr().err


def test_a_dataset_declares_a_metric_that_is_known() -> None:
    known = next(iter(DATASETS.values()))
    assert {info.metric for info in DATASETS.values()} <= set(HEADLINES)
    with pytest.raises(UserError, match=r"metric must be one of auc, .*, got 'auprcs'; did you mean auprc\?"):
        dataclasses.replace(known, metric="auprcs")


def test_the_headline_metric_stands_before_auc_without_being_asked_for(tmp_path: Path) -> None:
    stored(tmp_path, *(run(seed, method, metric="mcc") for seed in range(2) for method in ("full", "lora")))
    assert main(["tables", "--results", str(tmp_path)]) == 0
    text = (tmp_path / "tables" / "results.md").read_text()
    (head,) = [line for line in text.splitlines() if line.startswith("| Resolution")]
    assert head.index("MCC, headline ↑") < head.index("AUC (%) ↑")
    assert "Headline metric of this dataset: MCC, by which methods are ranked" in text


def test_a_headline_metric_that_is_unknown_is_told(tmp_path: Path) -> None:
    stored(tmp_path, run(metric="dice"))
    assert main(["tables", "--results", str(tmp_path)]) == 0
    assert "Ranked by AUC, as the headline metric of these runs is 'dice'." in (
        (tmp_path / "tables" / "results.md").read_text()
    )


def test_methods_are_ranked_by_the_headline_metric() -> None:
    """By AUC a is the best everywhere, by the calibration error, of which less is better, c."""
    rows = []
    for number in range(8):
        for method, auc, error in (("full", 0.9, 0.3), ("lora", 0.8, 0.2), ("linear", 0.7, 0.1)):
            record = run(0, method, name=f"d{number}", title=f"d{number}", metric="ece")
            record["run"]["config"]["dataset"] = f"d{number}"
            record["measurements"]["test"]["auc"] = auc
            rows.append((record, error))
    table = summary(runs_frame(record for record, _ in rows))
    errors = {record["run"]["config"]["method"]: error for record, error in rows}
    (found,) = compare_over_datasets(table.assign(ece_mean=table["method"].map(errors)))
    assert isinstance(found.ranking, Ranking)
    assert found.ranking.methods == ["linear", "lora", "full"]
    assert found.metrics["d0"] == "ece"
