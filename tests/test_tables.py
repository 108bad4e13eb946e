"""Tables from a fixed set of records: what is averaged, what is marked, and that every format says the same."""

import csv
import io
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from fixed_records import MIB, fallback_records, fixed_records, make_record
from rich.console import Console

from benchmarks.analysis.summary import performance_memory_efficiency, performance_parameter_efficiency, summary
from benchmarks.records.frame import runs_frame
from benchmarks.records.schema import Record
from benchmarks.report.latex import escape_latex
from benchmarks.report.tables import console_table, escape_markdown, write_tables
from methods import METHODS


def cell(table: pd.DataFrame, method: str, resolution: int = 448) -> pd.Series:
    rows = table[(table["method"] == method) & (table["resolution"] == resolution)]
    assert len(rows) == 1
    return rows.iloc[0]


def markdown(tmp_path: Path, records: list[Record]) -> str:
    return write_tables(tmp_path, runs_frame(records))[0].read_text()


def line(text: str, method: str, nth: int = 0) -> list[str]:
    rows = [row for row in text.splitlines() if re.match(rf"\|[^|]*\| {re.escape(method)} +\|", row)]
    return [part.strip() for part in rows[nth].strip("|").split("|")]


def test_scores_equal_their_definitions() -> None:
    assert performance_parameter_efficiency(86.40, 0.0181) == pytest.approx(86.40 * math.exp(-math.log10(1.0181)))
    assert performance_parameter_efficiency(88.82, 1.0) == pytest.approx(65.732, abs=1e-3)
    assert performance_memory_efficiency(88.82, 23128, 23128) == pytest.approx(65.732, abs=1e-3)
    assert performance_memory_efficiency(87.12, 736, 23128) == pytest.approx(85.943, abs=1e-3)


def test_mean_and_sd_run_over_finished_seeds_only() -> None:
    records = [make_record("lora", seed=0, auc=0.8), make_record("lora", seed=1, auc=0.9)]
    records.append(make_record("lora", seed=2, state="failed", message="killed"))
    row = cell(summary(runs_frame(records)), "lora")
    assert row["auc_mean"] == pytest.approx(0.85)
    assert row["auc_sd"] == pytest.approx(0.1 / math.sqrt(2))
    assert (row["seeds_ok"], row["seeds_asked"], row["seeds_failed"], row["state"]) == (2, 3, 1, "ok")


def test_pme_never_mixes_measured_and_predicted() -> None:
    full = make_record("full", state="oom")  # has a prediction, but no measurement
    fpt = make_record("fpt", auc=0.9)
    row = cell(summary(runs_frame([full, fpt])), "fpt")
    assert row["train_memory_source"] == row["memory_source"] == "measured"
    assert row["pme_source"] == row["train_pme_source"] == "predicted"
    assert row["pme"] == pytest.approx(performance_memory_efficiency(0.9, 1_730, 15_340))
    assert row["train_pme"] == pytest.approx(performance_memory_efficiency(0.9, 1_222, 15_340))
    full["measurements"].pop("predicted_memory")
    row = cell(summary(runs_frame([full, fpt])), "fpt")
    assert pd.isna(row["pme"])
    assert pd.isna(cell(summary(runs_frame([fpt])), "fpt")["pme"])


def test_protocols_are_never_mixed() -> None:
    changes = [
        {"precision": "fp32"},
        {"attention": "eager"},
        {"batch_size": 8},
        {"epochs": 5},
        {"grad_checkpointing": True},
    ]
    records = [make_record("full"), make_record("lora")]
    records += [make_record("lora", config=change, tag=str(i)) for i, change in enumerate(changes)]
    records.append(make_record("lora", environment={"device": "NVIDIA H100"}, tag="h100"))
    records.append(make_record("lora", weights={"sha256": "cd" * 32}, tag="weights"))
    table = summary(runs_frame(records))
    assert table["block"].nunique() == 8
    assert (table["seeds_ok"] == 1).all()
    assert table["pme"].notna().sum() == 2  # full and lora of the one block that has full


def test_variants_of_a_method_are_told_apart() -> None:
    records = [make_record("lora", method_config={"rank": rank}, tag=str(rank)) for rank in (8, 16)]
    records.append(make_record("fpt"))
    assert sorted(summary(runs_frame(records))["label"]) == [
        METHODS["fpt"].title,
        *(f"{METHODS['lora'].title} (rank {rank})" for rank in (16, 8)),
    ]


def test_a_new_option_at_its_default_is_no_other_variant() -> None:
    records = [make_record("lora", seed=seed, config={"options": {"rank": 16}}) for seed in (0, 1)]
    records[0]["run"]["method"]["config"] = {"rank": 16, "rank_dropout": 0.0}  # which the other does not know yet
    records.append(make_record("lora", config={"options": {"rank": 8}}, tag="8"))
    table = summary(runs_frame(records))
    assert table["label"].to_list() == ["LoRA (rank 16)", "LoRA (rank 8)"]
    assert table["seeds_ok"].to_list() == [2, 1]


def test_unknown_method_of_a_stored_record_is_shown_last() -> None:
    record = make_record("fpt", tag="x")
    record["run"]["config"]["method"], record["run"]["method"]["title"] = "fpt_next", "FPT next"
    assert summary(runs_frame([record, make_record("fpt"), make_record("full")]))["label"].iloc[-1] == "FPT next"


def test_same_name_other_images_are_two_datasets() -> None:
    records = [make_record("fpt"), make_record("fpt", config={"dataset_digest": "e5" * 32}, tag="b")]
    assert sorted(summary(runs_frame(records))["dataset_label"]) == ["Demo [d1d1d1]", "Demo [e5e5e5]"]


def test_markdown_marks_best_incidents_and_partial_seeds(tmp_path: Path) -> None:
    text = markdown(tmp_path, fixed_records())
    # Memory of the whole run is ranked; beside it training and preloading.
    assert line(text, METHODS["fpt_plus"].title, nth=1)[3:6] == ["<u>1,730</u>", "343", "1,730"]
    assert line(text, METHODS["linear"].title, nth=1)[3:6] == ["**1,420**", "12", "1,420"]
    assert line(text, METHODS["lora"].title, nth=1)[3:6] == ["12,650", "12,650", "–"]
    assert line(text, METHODS["lora"].title, nth=1)[7] == "2 of 3§"
    oom = line(text, METHODS["full"].title, nth=2)
    assert oom[3:8] == ["OOM§", "OOM§", "–", "OOM§", "0 of 3"]
    assert "**" not in "".join(oom)
    assert line(text, METHODS["vpt"].title, nth=2)[6] == "diverged§"
    assert (
        f"{METHODS['lora'].title} at 448 px: failed in the train phase, 1 seed (worker was killed by signal 9)" in text
    )
    assert f"{METHODS['full'].title} at 896 px: out of memory in the train phase, 3 seeds" in text
    assert "(synthetic, not clinical)" in text
    for part in ("vit_base_patch16_384", "model hub", "A100", "bf16", "sdpa", "batch size 16", "20 epochs", "3 seeds"):
        assert part in text


def test_the_caption_says_the_budget_in_steps_where_it_is_one(tmp_path: Path) -> None:
    record = make_record("full", config={"epochs": 3, "batch_size": 2})
    assert "batch size 2, 3 epochs. AUC" in markdown(tmp_path, [record])
    record["run"]["dataset"]["counts"] = {"train": {"ill": 30, "well": 51}, "val": {}, "test": {}}  # 40 batches of two
    said = "batch size 2, 3 epochs of 40 steps (a method that learns slowly may need more). AUC"
    assert said in markdown(tmp_path, [record])


def test_one_sentence_says_which_rows_saw_augmented_images(tmp_path: Path) -> None:
    """By the record alone: what was stored before it said so is named as not recorded, or not at all."""
    seen: dict[str, tuple[list[str], list[str]]] = {
        "full": (["image"], ["image"]),
        "lora": (["image"], ["image"]),
        "linear": (["image"], []),
        "fpt": (["image", "image_low"], ["image_low"]),
    }
    records = [make_record(method, seed=seed) for method in seen for seed in (0, 1)]
    assert "ugmented" not in markdown(tmp_path, records)
    for record in records:
        views, augmented = seen[record["run"]["config"]["method"]]
        record["run"]["input"] |= {"views": dict.fromkeys(views, 224), "augmented": augmented}
    said = (
        "Trained on augmented images: Full fine-tuning, LoRA; with image_low alone augmented: FPT; on images as they "
        "are: Linear probe"
    )
    console = Console(file=io.StringIO(), width=400)
    console.print(console_table(runs_frame(records)))
    written = [path.read_text() for path in write_tables(tmp_path, runs_frame(records))]
    for text in (console.file.getvalue(), written[0], written[2].replace(r"\_", "_")):  # type: ignore[attr-defined]
        assert " ".join(text.split()).count(f"{said}.") == 1
    mixed = markdown(tmp_path, [*records, make_record("vpt", tag="old")])
    assert f"{said}; augmented or not is not recorded: VPT-Deep." in mixed


def test_warm_up_and_decay_of_all_are_another_protocol_and_their_absence_is_the_one_before(tmp_path: Path) -> None:
    old = [make_record(method, seed=0) for method in ("full", "lora")]
    names = set(summary(runs_frame(old))["block"])
    same = [make_record("full", seed=1, config={"warmup_epochs": 0, "decay_all": False})]
    assert set(summary(runs_frame([*old, *same]))["block"]) == names
    other = [
        make_record("full", config={"warmup_epochs": 2}, tag="w"),
        make_record("full", config={"decay_all": True}, tag="d"),
        make_record("full", config={"warmup_epochs": 2, "decay_all": True}, tag="b"),
    ]
    table = summary(runs_frame([*old, *same, *other]))
    assert table["block"].nunique() == 4 and names < set(table["block"]) and len(table) == 5
    text = markdown(tmp_path, [*old, *other])
    assert text.count("2 of them warm-up") == text.count("weight decay of all parameters") == 2


def test_normalisation_as_in_pretraining_is_another_protocol(tmp_path: Path) -> None:
    old = [make_record("full"), make_record("full", seed=1, config={"normalization": None})]
    other = make_record("full", config={"normalization": [[0.5] * 3, [0.5] * 3]}, tag="n")
    table = summary(runs_frame([*old, other]))
    assert table["block"].nunique() == len(table) == 2
    assert summary(runs_frame(old))["block"].iloc[0] in set(table["block"])
    assert markdown(tmp_path, [*old, other]).count("normalised as in pretraining") == 1


def test_what_preloading_took_stands_beside_training(tmp_path: Path) -> None:
    text = markdown(tmp_path, fixed_records())
    assert "Train (s) |   Preload (s) |   Preload (images/s) |   Disk (MiB) |" in text
    assert line(text, METHODS["fpt"].title)[-4:] == ["41.2", "125", "8.0", "720"]
    assert line(text, METHODS["full"].title)[-4:] == ["41.2", "–", "–", "–"]
    console = Console(file=io.StringIO(), width=400)
    console.print(console_table(runs_frame(fixed_records())))
    assert "Preloading took up to 125 s and 720 MiB on disk" in " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "Disk (MiB)" not in markdown(tmp_path, [make_record("full"), make_record("lora")])


def tuned(method: str, resolution: int, lr: float, seed: int = 0) -> Record:
    grid = (1e-4, 1e-3, 1e-2)
    record = make_record(method, resolution, seed, config={"lr": lr, "lr_grid": list(grid)})
    record["run"]["method"]["config"] = {"lr": lr}
    record["run"]["tuning"] = {"grid": list(grid), "num_trials": 3, "chosen": lr, "at_edge": lr in (1e-4, 1e-2)}
    return record


def test_a_rate_at_the_edge_of_its_grid_is_flagged(tmp_path: Path) -> None:
    records = [tuned("full", 448, 1e-3), tuned("fpt", 448, 1e-2), tuned("fpt", 224, 1e-3), tuned("fpt", 224, 1e-3, 1)]
    text = markdown(tmp_path, records)
    assert "Learning rate: the best of 3 trials on validation." in text
    assert "| FPT¶ " in text and text.count("FPT¶") == 1  # other rates are no other variants
    assert (
        "¶ The best learning rate lies at the edge of its grid, so a better one may lie beyond: FPT at 448 px (0.01)"
        in text
    )
    assert "¶" not in markdown(tmp_path, [make_record("full"), make_record("fpt")])


def test_predictions_and_fallback_are_marked(tmp_path: Path) -> None:
    text = markdown(tmp_path, fallback_records())
    assert line(text, METHODS["fpt"].title, nth=1)[3:6] == ["<u>1,730</u>†", "1,222†", "1,730†"]
    assert "† Predicted for a GPU, not measured." in text
    assert "vit_small_patch14_dinov2‡, weights from the package index" in text
    assert "‡ Fallback backbone in place of vit_base_patch16_384" in text
    assert "Host (MiB)" in text
    assert "Host (MiB)" not in markdown(tmp_path, fixed_records())


def test_out_of_memory_in_the_preload_phase_stands_in_its_column(tmp_path: Path) -> None:
    text = markdown(tmp_path, [make_record("fpt", state="oom", phase="preload"), make_record("full")])
    assert line(text, METHODS["fpt"].title)[3:6] == ["OOM§", "1,222†", "OOM§"]


def test_resolution_that_ran_at_another_side_says_so(tmp_path: Path) -> None:
    assert "512 px (runs at 518)" in markdown(tmp_path, [make_record("fpt", 512, effective=518)])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("official", "Splits are the publisher's (split c0ffee00)."),
        ("ours", "Splits are ours, by exam (split c0ffee00): those of the papers are not public."),
        ("user", "Splits are a user's own (split c0ffee00)."),
        (None, ""),
    ],
)
def test_tables_say_who_made_the_splits(tmp_path: Path, kind: str | None, expected: str) -> None:
    split = {"kind": kind, "group_key": "exam", "digest": "c0ffee00" * 8} if kind else None
    text = markdown(tmp_path, [make_record("lora", dataset={"split": split})])
    assert expected in text
    assert ("Splits are" in text) == (kind is not None)


def test_csv_has_raw_numbers_and_a_row_a_cell(tmp_path: Path) -> None:
    paths = write_tables(tmp_path, runs_frame(fixed_records() + fallback_records()))
    assert [path.name for path in paths] == ["results.md", "results.csv", "results.tex"]
    rows = list(csv.DictReader(io.StringIO(paths[1].read_text())))
    assert len(rows) == 7 * 3 + 7 * 2
    row = next(row for row in rows if (row["method"], row["resolution"], row["device_type"]) == ("fpt", "448", "cuda"))
    assert row["memory_bytes"] == str(1_730 * MIB) and row["memory_phase"] == "preload"
    assert row["train_memory_bytes"] == str(1_222 * MIB)
    assert row["preload_memory_bytes"] == str(1_730 * MIB)
    assert row["seeds_ok"] == "3"
    assert 0 < float(row["auc_mean"]) < 1


def test_latex_is_balanced_and_escaped(tmp_path: Path) -> None:
    odd = {"title": "50% of A&B_{x} #1 ~ ^ \\end"}
    records = [*fixed_records(), make_record("fpt", dataset=odd, config={"dataset": "odd"}, tag="odd")]
    text = write_tables(tmp_path, runs_frame(records))[2].read_text()
    opened = re.findall(r"\\begin\{(\w+\*?)\}", text)
    assert opened == ["table*", "tabular"] * 2
    assert sorted(re.findall(r"\\end\{(\w+\*?)\}", text)) == sorted(opened)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert r"50\% of A\&B\_\{x\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{}end" in text
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert re.sub(r"\\\$", "", text).count("$") % 2 == 0
    width = len(re.findall(r"\\begin\{tabular\}\{(l+r+)\}", text)[0])
    rows = [row for row in text.splitlines() if row.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {width}
    assert r"\textbf{" in text
    assert r"\underline{" in text


def test_names_of_users_are_escaped() -> None:
    assert escape_markdown("a|b <script> *x* _y_ in_side") == r"a\|b &lt;script&gt; \*x\* \_y\_ in_side"
    assert escape_latex("a_b & 5% ± –") == r"a\_b \& 5\% $\pm$ \textendash{}"
    assert escape_latex("--lr\x01\n,,") == r"-{}-lr\textbackslash{}x01 ,{},"


@pytest.mark.parametrize("width", [80, 100])
def test_console_table_fits_and_is_plain_when_piped(width: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width).print(console_table(runs_frame(fixed_records() + fallback_records())))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for part in ("90.50 ± 0.52", "2 of 3§", "15,340†", "66.98"):
        assert part in text


def test_no_runs_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"results must hold at least one run, got none in .*: run bench\.py first"):
        write_tables(tmp_path, runs_frame([]))


def test_tables_are_the_same_each_time(tmp_path: Path) -> None:
    records = fixed_records()
    first = [path.read_bytes() for path in write_tables(tmp_path, runs_frame(records))]
    assert [path.read_bytes() for path in write_tables(tmp_path, runs_frame(records[::-1]))] == first


def test_published_figures_carry_their_source() -> None:
    published = pd.read_csv(Path(__file__).parents[1] / "results" / "published" / "fpt_readme.csv")
    assert list(published["method"]) == ["full", "vpt", "adapter", "lora", "fpt", "fpt_plus"]
    assert list(published["auc_percent"]) == [88.82, 83.68, 84.14, 85.94, 86.40, 87.12]
    assert published["source"].notna().all()
