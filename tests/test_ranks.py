"""Methods over datasets: ranks and signed ranks against scipy, published examples and definitions as loops."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixed_records import make_record
from scipy import stats

from benchmarks.analysis.ranks import (
    DatasetsComparison,
    Ranking,
    average_ranks,
    compare_over_datasets,
    critical_difference,
    friedman_chi_square,
    iman_davenport,
    iman_davenport_f,
    indistinguishable,
    range_quantile,
    signed_rank,
)
from benchmarks.analysis.statistics import holm
from benchmarks.analysis.summary import summary
from benchmarks.records.frame import runs_frame
from benchmarks.records.schema import Record
from benchmarks.report import plots
from benchmarks.report.tables import write_tables


def test_critical_difference_is_the_published_one() -> None:
    published = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)  # Demsar 2006, table 5 (a), 0.05
    for num_methods, quantile in enumerate(published, start=2):
        factor = math.sqrt(num_methods * (num_methods + 1) / 6)
        assert critical_difference(num_methods, 1) / factor == pytest.approx(quantile, abs=1e-3)
    tenth = (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920)  # the same table at 0.10
    for num_methods, quantile in enumerate(tenth, start=2):
        factor = math.sqrt(num_methods * (num_methods + 1) / 6)
        assert critical_difference(num_methods, 1, level=0.1) / factor == pytest.approx(quantile, abs=1e-3)
    assert critical_difference(4, 14, level=0.1) == pytest.approx(1.12, abs=5e-3)  # its example of section 3.2.3
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    # autorank 1.3, by an approximate quantile
    assert [critical_difference(7, 6), critical_difference(7, 12)] == pytest.approx([3.67716, 2.60014], abs=1e-4)
    # posthoc_nemenyi_friedman of scikit-posthocs 0.17 on 14 rows: p of ranks that differ by 16 / 14
    assert critical_difference(4, 14, level=0.088673) == pytest.approx(16 / 14, abs=1e-5)


def test_quantiles_of_the_range_are_those_of_scipy() -> None:
    for number, share in itertools.product((2, 3, 8, 60), (0.5, 0.9, 0.95, 0.999)):
        expected = stats.studentized_range.ppf(share, number, np.inf)
        assert range_quantile(share, number) == pytest.approx(expected, abs=1e-9)


def test_chi_square_is_that_of_scipy() -> None:
    for seed in range(20):
        scores = np.random.default_rng(seed).integers(0, 4, (6, 5)).astype(np.float64)
        expected = stats.friedmanchisquare(*scores.T).statistic
        assert friedman_chi_square(stats.rankdata(-scores, axis=1)) == pytest.approx(expected, rel=1e-12)


def test_ranks_are_averaged_over_rows() -> None:
    scores = np.array([[0.9, 0.8, 0.7], [0.9, 0.9, 0.1], [0.5, 0.6, 0.4], [0.3, 0.3, 0.3]])
    assert average_ranks(scores).tolist() == [(1 + 1.5 + 2 + 2) / 4, (2 + 1.5 + 1 + 2) / 4, (3 + 3 + 3 + 2) / 4]
    assert average_ranks(scores).tolist() == stats.rankdata(-scores, axis=1).mean(axis=0).tolist()


def test_f_is_the_published_one() -> None:
    assert iman_davenport_f(9.28, 14, 4) == pytest.approx(3.69, abs=5e-3)  # Demsar 2006, section 3.2.3
    assert iman_davenport_f(10.0, 5, 3) == math.inf


def test_f_is_the_analysis_of_variance_of_the_ranks() -> None:
    for seed, ties in ((0, False), (1, True)):
        scores = np.random.default_rng(seed).normal(size=(6, 4))
        scores = np.round(scores) if ties else scores
        ranks = [[sum(other > own for other in row) + (sum(other == own for other in row) + 1) / 2 for own in row]
                 for row in scores.tolist()]  # fmt: skip
        means = [sum(row[j] for row in ranks) / 6 for j in range(4)]
        between = 6 * sum((mean - 2.5) ** 2 for mean in means)
        within = sum((row[j] - means[j]) ** 2 for row in ranks for j in range(4))  # a row's mean rank is always 2.5
        assert iman_davenport(scores)[0] == pytest.approx((between / 3) / (within / 15))


def test_p_counts_the_orders_whose_f_is_as_high() -> None:
    """Against all 6^4 orders of four rows of three methods; with ties, against the orders of the tied ranks."""
    for scores in (
        [[0.9, 0.8, 0.7], [0.9, 0.8, 0.6], [0.7, 0.8, 0.6], [0.9, 0.8, 0.7]],
        [[0.9, 0.8, 0.8], [0.9, 0.9, 0.6], [0.7, 0.7, 0.7], [0.9, 0.8, 0.7]],
        [[0.9, 0.8, 0.7]] * 4,
    ):
        ranks = stats.rankdata(-np.array(scores), axis=1)
        spreads = [
            sum(sum(column) ** 2 for column in zip(*rows, strict=True))
            for rows in itertools.product(*(list(itertools.permutations(row)) for row in ranks.tolist()))
        ]
        own = sum(sum(column) ** 2 for column in zip(*ranks.tolist(), strict=True))
        exact = np.mean(np.array(spreads) >= own)
        assert iman_davenport(np.array(scores))[1] == pytest.approx(exact, abs=0.01)
    assert iman_davenport(np.full((4, 3), 0.5)) == (0.0, 1.0)


@pytest.mark.parametrize(("num_rows", "num_methods"), [(2, 7), (5, 4), (8, 7)])
def test_equal_methods_are_told_apart_at_most_in_one_of_twenty(num_rows: int, num_methods: int) -> None:
    drawn = np.random.default_rng(num_rows).normal(size=(1000, num_rows, num_methods))
    size = np.mean([iman_davenport(scores, num_orders=400)[1] <= 0.05 for scores in drawn])
    assert 0.03 <= size <= 0.065


def test_groups_within_the_critical_difference() -> None:
    ranks = [1.964, 2.0, 2.893, 3.143]  # those of Demsar 2006, table 6
    assert indistinguishable(ranks, 1.25) == [(0, 3)]  # 3.143 - 1.964 = 1.179
    assert indistinguishable(ranks, 1.15) == [(0, 2), (1, 3)]
    assert indistinguishable(ranks, 1.0) == [(0, 2), (2, 3)]
    assert indistinguishable(ranks, 0.1) == [(0, 1)]
    assert indistinguishable([1.0, 2.0, 3.0], 0.5) == []


def test_signed_ranks_are_those_of_a_published_example() -> None:
    """Depression scores before and after a drug: Hollander and Wolfe, examples 3.1, 3.3 and 3.4."""
    before = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    after = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    assert signed_rank(after - before) == pytest.approx((-0.46, -0.786, -0.010, 2 * 0.01953), abs=1e-5)


def test_signed_ranks_equal_scipy_where_no_differences_tie() -> None:
    rng = np.random.default_rng(0)
    for num in range(5, 21):
        differences = rng.normal(0.4, size=num)
        found = signed_rank(differences)
        assert found.p == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
        pairs = [(one + other) / 2 for one, other in itertools.combinations_with_replacement(differences, 2)]
        assert found.median == pytest.approx(np.median(pairs))


def test_p_and_interval_never_contradict_each_other() -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(300):
        differences = np.round(rng.normal(0.5, size=int(rng.integers(5, 13))), 1)  # with zeros and ties
        found = signed_rank(differences)
        leaves_out = found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
        assert leaves_out == (found.p <= 0.05)
        seen.add(leaves_out)
    assert seen == {True, False}


def test_zeros_and_ties_are_broken_in_no_ones_favour() -> None:
    differences = np.array([0.0, 0.0, 0.1, 0.2, -0.2, 0.3, 0.4, 0.5])
    ways = [
        stats.wilcoxon(differences + 1e-3 * np.array(signs) * np.linspace(1, 2, 8), method="exact").pvalue
        for signs in itertools.product((-1, 1), repeat=8)
    ]
    assert signed_rank(differences).p == pytest.approx(max(ways))
    assert signed_rank(np.zeros(6)) == (0.0, 0.0, 0.0, 1.0)


def test_five_datasets_support_no_p_and_no_interval() -> None:
    found = signed_rank(np.array([0.01, 0.02, 0.03, 0.04, 0.06]))
    assert found.p == pytest.approx(2 / 2**5)  # all of one sign, which no five can beat
    assert (found.low, found.high) == (None, None)
    assert signed_rank(np.arange(1.0, 7)).low == 1  # six of one sign: p 2 / 2^6, the interval from end to end


# AUC at 224 px, less that of the dataset, in thousandths
OFFSETS: Mapping[str, Sequence[int]] = {
    "full": (0, 0, 0, 0, 0, 0),
    "lora": (10, 20, 30, 40, 50, -60),
    "vpt": (-1, -2, -3, -4, -5, -6),
}


def records_of(offsets: Mapping[str, Sequence[int]] = OFFSETS, side: int = 224, **changes: Any) -> list[Record]:
    return [
        make_record(
            method,
            side,
            auc=0.8 + 0.01 * i + offset / 1000,
            tag=f"d{i}",
            config={"dataset": f"d{i}"},
            dataset={"name": f"d{i}", "title": f"Data {i}", "synthetic": False},
            **changes,
        )
        for method, values in offsets.items()
        for i, offset in enumerate(values)
    ]


def compared(records: list[Record]) -> list[DatasetsComparison]:
    return list(compare_over_datasets(summary(runs_frame(records))))


def ranking_of(found: DatasetsComparison) -> Ranking:
    assert isinstance(found.ranking, Ranking)
    return found.ranking


def test_rows_are_datasets_and_resolutions_stay_apart() -> None:
    other = {"full": (0,) * 6, "lora": (1,) * 6, "vpt": (2,) * 6}
    low, high = compared([*records_of(), *records_of(other, 448)])
    assert (low.resolution, high.resolution) == (224, 448)
    found = ranking_of(low)
    assert found.datasets == [f"Data {i}" for i in range(6)]
    assert found.methods == ["lora", "full", "vpt"]
    assert found.ranks == pytest.approx([(5 * 1 + 3) / 6, (5 * 2 + 1) / 6, (5 * 3 + 2) / 6])
    assert found.critical == pytest.approx(critical_difference(3, 6))
    assert (ranking_of(high).methods, ranking_of(high).f) == (["vpt", "lora", "full"], math.inf)
    assert ranking_of(high).ranks == [1, 2, 3] and low.lacking == []


def test_methods_are_tested_against_full_over_datasets() -> None:
    (low,) = compared(records_of())
    assert set(low.to_full) == {"LoRA", "VPT-Deep"}
    lora, vpt = low.to_full["LoRA"], low.to_full["VPT-Deep"]
    gains = np.array(OFFSETS["lora"]) / 1000
    assert lora.differences == pytest.approx(signed_rank(gains))
    assert vpt.differences == pytest.approx((-0.0035, -0.006, -0.001, 2 / 2**6))
    p_values = [stats.wilcoxon(gains, method="exact").pvalue, 2 / 2**6]
    assert [lora.p_holm, vpt.p_holm] == pytest.approx(holm(p_values))
    assert (lora.num_datasets, vpt.num_datasets) == (6, 6)


def test_variants_of_full_are_stood_for_by_the_best_on_validation() -> None:
    worse = records_of({"full": (-9,) * 6}, method_config={"layers": 3})  # validation AUC lies with test AUC
    for record in worse:
        record["run_id"] += "_worse"
    (found,) = compared([*records_of(), *worse])
    assert set(found.to_full) == {"LoRA", "VPT-Deep"}
    assert found.to_full["VPT-Deep"].differences.median == pytest.approx(-0.0035)
    assert len(ranking_of(found).labels) == 4


def test_two_image_sets_under_one_name_are_two_rows() -> None:
    records = records_of()
    for record in records:
        i = int(record["run"]["config"]["dataset"].removeprefix("d"))
        if i > 3:
            record["run"]["config"] |= {"dataset": "same", "dataset_digest": f"{i}" * 64}
            record["run"]["dataset"] |= {"name": "same", "title": "Same"}
    (found,) = compared(records)
    assert ranking_of(found).datasets == [f"Data {i}" for i in range(4)] + ["Same [444444]", "Same [555555]"]


def test_cells_without_all_their_seeds_take_no_part_and_are_named() -> None:
    records = [*records_of(seed=0), *records_of(seed=1)]
    (lost,) = (record for record in records if record["run_id"] == "vpt_224_1_d2")
    lost["status"]["state"] = "diverged"
    records = [record for record in records if not record["run_id"].startswith(("full_224_0_d5", "full_224_1_d5"))]
    place: dict[str, Any] = {"config": {"dataset": "d0"}, "dataset": {"title": "Data 0", "synthetic": False}}
    records += [make_record("adapter", 224, seed, "oom", tag="d0", **place) for seed in (0, 1)]
    (found,) = compared(records)
    assert found.ranking == "ranks need 5 datasets in which every method is complete, there are 4"
    assert found.lacking == [
        "Full fine-tuning on Data 5 (not run)",
        "Adapter everywhere",
        "VPT-Deep on Data 2 (1 of 2 seeds)",
    ]
    assert found.to_full["LoRA"].num_datasets == 5
    assert "VPT-Deep" not in found.to_full  # shares four datasets with full fine-tuning


def test_few_datasets_or_methods_are_not_ranked() -> None:
    of_two = {method: values[:2] for method, values in OFFSETS.items()}
    assert compared(records_of(of_two))[0].ranking == (
        "ranks need 5 datasets in which every method is complete, there are 2: Nemenyi's critical difference, 2.34, "
        "exceeds 2, the largest there can be"
    )  # 2.343 sqrt(3 4 / (6 2))
    of_one = {method: values[:1] for method, values in OFFSETS.items()}
    (one,) = compared(records_of(of_one))
    assert one.ranking == "ranks need 5 datasets in which every method is complete, there is 1"
    of_four = {method: values[:4] for method, values in OFFSETS.items()}
    (four,) = compared(records_of(of_four))
    assert four.ranking == "ranks need 5 datasets in which every method is complete, there are 4"
    assert four.to_full == {}
    (pair,) = compared(records_of({name: OFFSETS[name] for name in ("full", "vpt")}))
    assert pair.ranking == "ranks need three methods with a complete cell, there are 2"
    assert pair.to_full["VPT-Deep"].p_holm == pytest.approx(2 / 2**6)
    lost = [make_record(method, state="oom") for method in OFFSETS]
    assert compared(lost)[0].ranking == "ranks need three methods with a complete cell, there are 0"


def test_the_table_shows_ranks_beside_the_differences_to_full(tmp_path: Path) -> None:
    write_tables(tmp_path, runs_frame(records_of()))
    shown = (tmp_path / "tables" / "results.md").read_text()
    assert shown.count("## Over datasets") == 1 and "### 224 px, protocol " in shown
    assert "over 6 datasets: Data 0, Data 1, Data 2, Data 3, Data 4, Data 5. Iman-Davenport F " in shown
    assert "With 6 datasets no p to full can be under 0.062." in shown  # 2 methods, each 2 / 2^6
    section = shown[shown.index("### 224 px") :]
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    assert rows[0] == ["Method", "Average rank ↓", "To full ↑", "p", "Datasets with both"]
    assert rows[1][:2] == ["LoRA", "1.33"] and rows[2] == ["Full fine-tuning", "1.83", "–", "–", "–"]
    assert rows[3] == ["VPT-Deep", "2.83", "−0.35 (−0.60 to −0.10)", "0.062", "6"]


def test_without_a_ranking_one_sentence_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "blocks", lambda table: ())  # no figure but ranks is of interest
    of_four = {method: values[:4] for method, values in OFFSETS.items()}
    frame = runs_frame([*records_of(of_four), *records_of(of_four, 448)])
    write_tables(tmp_path, frame)
    why = "at 224 and 448 px ranks need 5 datasets in which every method is complete, there are 4"
    shown = (tmp_path / "tables" / "results.md").read_text()
    assert shown.count(f": {why}.\n") == shown.count("No average ranks in protocol") == 1
    assert "### " not in shown
    assert plots.write_plots(tmp_path, frame) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no figure ranks_") and line.endswith(f": {why}")
    single = runs_frame([make_record("lora")])
    write_tables(tmp_path, single)
    assert "Over datasets" not in (tmp_path / "tables" / "results.md").read_text()


def test_what_a_ranking_lacks_is_named_where_datasets_would_do(tmp_path: Path) -> None:
    offsets = {**OFFSETS, "vpt": OFFSETS["vpt"][:3]}
    write_tables(tmp_path, runs_frame(records_of(offsets)))
    shown = (tmp_path / "tables" / "results.md").read_text()
    assert "there are 3 (left out, for want of all seeds: VPT-Deep on Data 3 (not run), VPT-Deep on Data 4" in shown
    assert "| LoRA     |                – |" in shown  # tested against full all the same
