"""When seeds stop being added: the rule on made-up scores, and what a seed asked of some methods means for others."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixed_records import make_record, store_with_predictions

from benchmarks.analysis.backbones import across_backbones
from benchmarks.analysis.comparison import FEWEST, SameImages, best_p
from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.influence import influence
from benchmarks.analysis.power import within_reach
from benchmarks.analysis.stopping import LOOK_LEVEL, LOOKS, RULE, judge, look_at, seeds_of_looks
from benchmarks.analysis.summary import summary
from benchmarks.records.frame import load_frame, settings_of
from benchmarks.records.record import write_record
from benchmarks.records.schema import Record
from benchmarks.report.missing_runs import missing_cells
from benchmarks.speed import stopping as simulation
from benchmarks.speed.claims import Scene, draw, each_evidence


def methods_at(
    aucs: tuple[float, ...], num_images: int, num_seeds: Sequence[int], seed_sd: float = 0.002
) -> SameImages:
    """Methods with these AUCs and numbers of seeds."""
    scene = Scene(num_images, 0.3, max(num_seeds), seed_sd, aucs)
    labels, _, scores = draw(scene, np.random.default_rng(3), len(aucs))
    return SameImages(
        [dict(enumerate(each_evidence(labels, scores[method, :number]))) for method, number in enumerate(num_seeds)]
    )


def test_looks_double_the_seeds() -> None:
    looks = seeds_of_looks([0, 1, 2])
    assert [len(seeds) for seeds in looks] == [3, 6, 12, 24, 48] and len(looks) == LOOKS
    assert looks[1] == [0, 1, 2, 3, 4, 5]
    assert seeds_of_looks([7, 1])[1] == [7, 1, 0, 2]
    assert all(len(set(seeds)) == len(seeds) for seeds in seeds_of_looks([3, 9]))


def test_what_is_far_worse_is_dropped_and_one_left_ends_it() -> None:
    found = judge(methods_at((0.95, 0.7, 0.75), 2000, [6] * 3), [3, 1, 2], ())
    assert set(found.worse) == {1, 2} and found.left == [0] and found.end == "one"
    assert max(found.worse.values()) <= LOOK_LEVEL


def test_a_look_compares_all_methods_with_the_seeds_they_have() -> None:
    """Those dropped before stay among the rivals that p values pay for, and are not dropped again."""
    methods = methods_at((0.9, 0.9, 0.7, 0.85), 2000, [6, 6, 3, 6])
    found = judge(methods, [1, 2, 3, 4], {2}, margin=0.0)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    p_values = best_p(dict(zip(pairs, methods.compare(pairs), strict=True)), range(4))
    assert 2 not in found.worse and 2 not in found.left
    assert found.worse == {i: p for i, p in p_values.items() if p <= LOOK_LEVEL and i != 2} and 3 in found.worse


def test_the_leanest_may_be_shown_to_be_no_worse() -> None:
    methods = methods_at((0.95, 0.95), 4000, [12, 12])
    assert judge(methods, [2, 1], (), margin=0.05)[1:] == ([0, 1], 1, "margin")
    (pair,) = methods.compare([(1, 0)], LOOK_LEVEL)
    assert pair is not None
    for margin, shown in ((-pair.low + 1e-6, True), (-pair.low - 1e-6, False)):
        assert (judge(methods, [2, 1], (), margin).end == "margin") is shown
    assert judge(methods, [2, None], (), margin=0.05)[1:] == ([0, 1], None, None)  # which is leanest is not known


def test_where_images_lack_no_seeds_are_added() -> None:
    few = methods_at((0.8, 0.8, 0.8), 60, [6] * 3)
    assert judge(few, [1, 2, 3], ()).end == "images"
    assert judge(methods_at((0.8, 0.8), FEWEST * 2, [3, 3]), [1, 2], ()).end == "images"
    noisy = methods_at((0.85, 0.85), 20_000, [3, 3], seed_sd=0.05)  # here seeds are what lacks
    assert judge(noisy, [1, 2], ()).end is None


def test_seeds_by_seed_and_the_variance_that_endless_ones_leave() -> None:
    methods = methods_at((0.85, 0.85), 3000, [40, 40], seed_sd=0.0)
    differences, images = methods.by_seed(0, 1)
    found = methods.variance(0, 1)
    assert found is not None and differences.mean() == pytest.approx(found[0])
    # Half of a score's variance is shared by all methods, a quarter a method's, a quarter a seed's own.
    one = methods.intervals()[0]
    assert one is not None
    assert images / one.images**2 == pytest.approx(2 * 0.25 / (0.75 + 0.25 / 40), rel=0.15)
    assert differences.std(ddof=1) ** 2 / images == pytest.approx(2 * 0.25 / 0.5, rel=0.5)


def test_what_seeds_so_far_let_be_is_within_reach() -> None:
    steady = np.full(8, 0.02)
    assert within_reach(steady, 0.0099**2, 0.025) and not within_reach(steady, 0.0105**2, 0.025)  # of 1.96 errors
    spread = steady + np.tile([0.01, -0.01], 4)
    assert within_reach(spread, 0.0105**2, 0.025)


def test_equal_methods_are_seldom_dropped_and_seeds_are_saved() -> None:
    scene, rng = Scene(100, 0.3, 48, 0.01, (0.85, 0.85)), np.random.default_rng(1)
    followed = [simulation.follow(simulation.Methods(scene, 3, rng)) for _ in range(4)]
    assert all(as_it_is.runs <= to_the_end.runs for to_the_end, as_it_is in followed)
    assert sum(bool(to_the_end.dropped) for to_the_end, _ in followed) <= 1
    assert any(as_it_is.end == "images" for _, as_it_is in followed)


def test_the_simulation_takes_all_seeds_at_once() -> None:
    labels, units, scores = draw(Scene(40, 0.3, 3, 0.02, (0.85, 0.8)), np.random.default_rng(0))
    found = list(each_evidence(labels, scores[1]))
    for row, evidence in zip(scores[1], found, strict=True):
        auc, of_units, design_effect = influence(labels, np.stack([-row, row], axis=1), units)
        assert evidence.auc == pytest.approx(auc)
        np.testing.assert_allclose(evidence.influence, of_units)
        assert evidence.design_effect == design_effect
        np.testing.assert_array_equal(evidence.class_units, np.bincount(labels))


def asked_of(*methods: str) -> dict[str, Any]:
    """What a record says of the rule by which its seed was added."""
    asked = [{"method": name, "settings": settings_of(make_record(name)["run"]["config"], {})} for name in methods]
    return {"rule": RULE, "look": 2, "looks": LOOKS, "level": LOOK_LEVEL, "margin": 0.02, "asked": asked}


def store(results: Path, method: str, seed: int, skill: float, *asked: str, **changes: Any) -> Record:
    record = make_record(method, seed=seed, **changes)
    if asked:
        record["run"]["stopping"] = asked_of(*asked)
    store_with_predictions(results, record, skill, num_images=200)
    return record


def rows_of(results: Path) -> pd.DataFrame:
    return summary(load_frame(results)[0]).set_index("method")


def test_a_seed_asked_of_some_methods_counts_against_no_other(tmp_path: Path) -> None:
    for method in ("full", "lora", "vpt"):
        for seed in range(2):
            store(tmp_path, method, seed, 1.0)
    for seed in (2, 3):
        store(tmp_path, "full", seed, 1.0, "full", "lora")
    rows = rows_of(tmp_path)
    assert rows["seeds_asked"].to_dict() == {"full": 4, "lora": 4, "vpt": 2}
    assert rows["complete"].to_dict() == {"full": True, "lora": False, "vpt": True}
    for seed in (2, 3):
        store(tmp_path, "lora", seed, 1.0, "full", "lora")
    rows = rows_of(tmp_path)
    assert "vpt" not in {cell.method for cell in missing_cells(rows.reset_index())}
    assert rows["complete"].all() and list(rows.loc["full", ["stopping_looks", "stopping_level"]]) == [5, 0.01]
    store(tmp_path, "full", 4, 1.0)  # which somebody asked for without a rule
    assert rows_of(tmp_path)["complete"].to_dict() == {"full": True, "lora": False, "vpt": False}


def test_on_several_backbones_each_rule_holds_for_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        config, weights = {"backbone": name}, {"backbone": name}
        for method in ("full", "vpt"):
            store(tmp_path, method, 0, 1.0, config=config, weights=weights, tag=name)
        record = make_record("full", seed=1, config=config, weights=weights, tag=name)
        settings = settings_of(record["run"]["config"], {})
        record["run"]["stopping"] = asked_of() | {"asked": [{"method": "full", "settings": settings}]}
        store_with_predictions(tmp_path, record, 1.0, num_images=200)
    rows = summary(across_backbones(load_frame(tmp_path)[0]))
    assert rows["complete"].all()
    assert sorted(rows["seeds_asked"]) == [1, 1, 2, 2]


def test_a_look_at_a_place_names_methods_by_their_settings(tmp_path: Path) -> None:
    for seed in range(4):
        store(tmp_path, "full", seed, 3.0)
        store(tmp_path, "lora", seed, 0.1)
        store(tmp_path, "vpt", seed, 3.0)
        if seed:
            write_record(tmp_path, make_record("adapter", seed=seed, state="oom", phase="train"))
        else:
            store(tmp_path, "adapter", seed, 3.0)
    frame, _ = load_frame(tmp_path)
    table, evidence = summary(frame), load_evidence(tmp_path, frame)[0]
    keys = {row["method"]: (row["method"], row["variant"]) for _, row in table.iterrows()}
    found = look_at(table, evidence, (), 0.5)
    assert set(found.worse) == {keys["lora"]} and found.left == [keys["full"], keys["vpt"]]
    assert found.lost == {keys["adapter"]: "only 1 of 4 seeds finished"}
    assert (found.leanest, found.end) == (keys["vpt"], "margin")
    assert found.why == "VPT-Deep, the leanest of 2 left, is shown to be no more than 50 points below any of them"
    again = look_at(table, evidence, [keys["lora"], keys["adapter"]], 0.5)
    assert (again.worse, again.lost, again.left) == ({}, {}, found.left)
    alone = look_at(table, evidence, [keys["lora"], keys["adapter"], keys["vpt"]], 0.0)
    assert (alone.end, alone.why) == ("one", "Full fine-tuning is left")
    nothing = look_at(table, {}, (), 0.02)
    assert nothing.end == "compare" and nothing.lost[keys["full"]] == "its predictions are missing"


def test_settings_in_a_record_are_those_of_the_run() -> None:
    record = make_record("lora", config={"options": {"rank": 4}, "lr": 1e-4, "lr_grid": [1e-4, 1e-3]})
    settings = settings_of(record["run"]["config"])
    assert settings["rank"] == 4 and "lr" not in settings and "seed" not in settings
    assert json.loads(json.dumps(settings)) == settings
