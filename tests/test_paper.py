"""The papers' comparison: what is averaged, what stays empty, what is cited, and commands that fill the gaps."""

import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bench_process import options_of
from fixed_records import MIB, fallback_records, fixed_records, make_record
from test_tables import line

from bench import main
from benchmarks.analysis.summary import performance_memory_efficiency, performance_parameter_efficiency, summary
from benchmarks.model.method_config import make_config
from benchmarks.model.variants import read_variants
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import load_records, write_record
from benchmarks.records.schema import Record
from benchmarks.report.missing_runs import commands
from benchmarks.report.paper_layout import write_paper_tables
from benchmarks.report.paper_table import beside_published, paper_tables, published_figures
from methods import METHODS

ROOT = Path(__file__).resolve().parent.parent


def on(dataset: str, method: str, auc: float, resolution: int = 512, seed: int = 0, **changes: Any) -> Record:
    config = {"dataset": dataset} | changes.pop("config", {})
    named = {"name": dataset, "title": dataset.title(), "synthetic": False}
    return make_record(method, resolution, seed, auc=auc, config=config, dataset=named, tag=dataset, **changes)


def two_datasets() -> list[Record]:
    """FPT was not run on covid, nor LoRA at 224 px."""
    return [
        *(on("covid", method, auc) for method, auc in (("full", 0.9), ("lora", 0.8))),
        *(on("messidor2", method, auc) for method, auc in (("full", 0.7), ("lora", 0.6), ("fpt", 0.5))),
        *(on(dataset, "full", 0.6, resolution=224) for dataset in ("covid", "messidor2")),
    ]


def markdown(tmp_path: Path, records: list[Record], published: bool = False) -> str:
    return write_paper_tables(tmp_path, runs_frame(records), published)[0].read_text()


def test_average_runs_over_datasets_that_every_method_has(tmp_path: Path) -> None:
    (paper,) = paper_tables(summary(runs_frame(two_datasets())))
    assert paper.datasets == ["Covid", "Messidor2"]
    assert paper.averaged == {224: ["Covid", "Messidor2"], 512: ["Messidor2"]}
    rows = {(row["resolution"], row["method"]): row for row in paper.rows.to_dict("records")}
    assert {name: rows[512, name]["auc_mean"] for name in ("full", "lora", "fpt")} == {
        "full": 0.7,
        "lora": 0.6,
        "fpt": 0.5,
    }
    assert rows[224, "full"]["auc_mean"] == pytest.approx(0.6) and pd.isna(rows[224, "lora"]["auc_mean"])
    assert rows[512, "lora"]["ppe"] == pytest.approx(performance_parameter_efficiency(0.6, 0.006805))
    scale = 512 / 448
    memory = int(12_650 * scale**2.4 * MIB), int(15_340 * scale**2.4 * MIB)
    for name in ("pme", "train_pme"):
        assert rows[512, "lora"][name] == pytest.approx(performance_memory_efficiency(0.6, *memory))
    fpt, full = int(1_730 * scale**2.4 * MIB), memory[1]
    assert rows[512, "fpt"]["pme"] == pytest.approx(performance_memory_efficiency(0.5, fpt, full))
    fpt = int(1_222 * scale**2.4 * MIB)
    assert rows[512, "fpt"]["train_pme"] == pytest.approx(performance_memory_efficiency(0.5, fpt, full))
    text = markdown(tmp_path, two_datasets())
    assert "Average at 512 px: over Messidor2." in text
    assert line(text, "FPT")[2:] == [""] * 9  # not run at 224 px
    assert line(text, "FPT", nth=1)[3:8] == ["**1,684**", "**2,384**", "", "50.00", "50.00"]


def test_protocols_and_variants_are_never_mixed() -> None:
    records = [*two_datasets(), on("covid", "fpt", 0.9, config={"precision": "fp32"})]
    papers = list(paper_tables(summary(runs_frame(records))))
    assert sorted(len(paper.rows) for paper in papers) == [1, 6]
    tuned = [on("covid", "lora", 0.8, config={"lr": 1e-4}), on("messidor2", "lora", 0.6, config={"lr": 1e-3})]
    (paper,) = paper_tables(summary(runs_frame(tuned)))
    assert paper.rows["label"].to_list() == ["LoRA"]  # a rate for each dataset is still one method
    ranks = [on(d, "lora", 0.8, method_config={"rank": r}) for d in ("covid", "messidor2") for r in (8, 16)]
    for i, record in enumerate(ranks):
        record["run_id"] += str(i)
    (paper,) = paper_tables(summary(runs_frame(ranks[:3])))
    assert paper.rows["label"].to_list() == ["LoRA (rank 16)", "LoRA (rank 8)"]
    assert paper.averaged == {512: ["Covid"]}


def test_incidents_are_results_and_gaps_are_empty(tmp_path: Path) -> None:
    records = [
        on("covid", "full", 0, state="oom", phase="train"),
        on("covid", "lora", 0.8),
        *(on("messidor2", "lora", 0.8, seed=seed) for seed in (0, 1)),
        on("messidor2", "full", 0.7),
    ]
    text = markdown(tmp_path, records)
    assert line(text, "Full fine-tuning")[5:7] == ["OOM§", "70.00 (1 of 2)"]
    assert "§ Covid, Full fine-tuning at 512 px: out of memory in the train phase." in text
    table = summary(runs_frame([*records, on("messidor2", "vpt", 0, state="failed", message="killed")]))
    (paper,) = paper_tables(table)
    lines = commands(paper.block)
    again, first = ([line for line in lines if ("--retry-failed" in line) is has] for has in (True, False))
    assert any("--methods vpt:weight_decay=0.05 --datasets messidor2" in line for line in again)
    assert any("vpt:weight_decay=0.05 --datasets covid" in line for line in first)


def test_chance_is_marked_and_not_ranked(tmp_path: Path) -> None:
    records = two_datasets()
    for record in records:
        record["run"]["dataset"]["counts"] = {"test": {"a": 30, "b": 10}}
    text = markdown(tmp_path, [*records, on("messidor2", "vpt", 0.3)])
    assert line(text, "Chance, majority class (baselines)", nth=1)[2:] == [*[""] * 3, *["50.00"] * 3, *[""] * 3]
    assert "Accuracy of always answering the majority class: Covid 75.0 %, Messidor2 75.0 %" in text


def test_published_figures_stand_beside_ours_with_the_difference(tmp_path: Path) -> None:
    (paper,) = paper_tables(summary(runs_frame(two_datasets())))
    beside = {row["method"]: row for row in beside_published(paper, published_figures()).to_dict("records")}
    cited = pd.read_csv(ROOT / "results" / "published" / "fpt_readme.csv").set_index("method")
    assert list(beside) == list(cited.index)
    for name, row in beside.items():
        assert row["auc_percent_published"] == cited["auc_percent"][name]
        assert row["source"] == cited["source"][name]
    assert beside["lora"]["auc_percent_difference"] == pytest.approx(60 - 85.94)
    process = (int(12_650 * (512 / 448) ** 2.4 * 1.1 * MIB) + 500 * MIB) / MIB
    assert beside["lora"]["memory_mb_difference"] == pytest.approx(process - 20_970, abs=1)
    assert beside["lora"]["trainable_percent_difference"] == pytest.approx(0.6805 - 0.68)
    assert all(pd.isna(beside[name]["auc_percent_ours"]) for name in ("vpt", "adapter", "fpt_plus"))
    text = markdown(tmp_path, two_datasets(), published=True)
    cells = line(text, "LoRA", nth=2)
    assert cells[8] == f"{process:,.0f}"  # of the whole run: LoRA preloads nothing
    assert line(text, "FPT", nth=2)[5] != line(text, "FPT", nth=2)[8] == f"{(2_384 * 1.1 + 500):,.0f}"
    assert cells[9:12] == ["60.00", "85.94", "−25.94"] and cells[12:14] == ["Messidor2", "mean of 8"]
    assert "README of the authors' repository" in cells[14]
    rows = pd.read_csv(tmp_path / "tables" / "paper.csv")
    lora = rows[(rows["method"] == "lora") & (rows["resolution"] == 512)].iloc[0]
    assert lora["auc_percent_published"] == 85.94 and "README of the authors" in lora["source"]
    assert rows[(rows["method"] == "vpt")]["auc_percent_published"].to_list() == [83.68]


def test_published_figures_without_ours_name_the_suite(tmp_path: Path) -> None:
    text = markdown(tmp_path, fallback_records(), published=True)
    assert "## Published, nothing here to stand beside it" in text and "python bench.py --suite paper" in text
    with pytest.raises(FileNotFoundError, match=r"published figures must lie in .*, got none"):
        published_figures(tmp_path)


def test_commands_describe_the_runs_that_are_missing(tmp_path: Path) -> None:
    """Each stored run of the demo's first seed is taken away in turn; the command must describe it again."""
    stored, _ = load_records(ROOT / "results" / "demo")
    records = [record for record in stored if record["run"]["config"]["seed"] == 0]
    assert len(records) == 14
    for gone in records:
        rest = [record for record in records if record is not gone]
        (paper,) = paper_tables(summary(runs_frame(rest)))
        (command,) = commands(paper.block)
        options = options_of(*shlex.split(command)[2:])
        config = gone["run"]["config"]
        method = config["method"]
        ((asked, own),) = read_variants(options.methods[0])
        assert (len(options.methods), asked, options.datasets) == (1, method, (config["dataset"],))
        assert (options.res, options.seeds) == ((config["resolution"],), (config["seed"],))
        for name in ("backbone", "weights", "epochs", "batch_size", "precision", "attention", "grad_checkpointing"):
            assert getattr(options, name) == config[name], name
        settings = make_config(method, own)
        assert (options.lr or (settings.lr,)) == (config["lr"],)
        for name, value in config["options"].items():
            assert getattr(settings, name) == value


def test_commands_carry_settings_and_are_few(tmp_path: Path) -> None:
    shared = {"grad_checkpointing": True, "warmup_epochs": 2, "decay_all": True, "resample_patch_embed": True}
    odd = {"lr": 5e-4, "preload": False, **shared}
    records = [on("covid", "fpt", 0.8, config=odd, method_config={"keep_ratio": 0.5, "num_prompt_tokens": 8})]
    records += [on(d, "full", 0.8, config=shared) for d in ("my images", "covid", "messidor2")]
    (paper,) = paper_tables(summary(runs_frame(records)))
    (command,) = commands(paper.block)
    assert "--methods fpt:weight_decay=0.05,num_prompt_tokens=8,keep_ratio=0.5 --datasets messidor2" in command
    assert "--datasets messidor2 'PATH/my images' --res 512 --seeds 0" in command
    assert "--lr 0.0005" in command and "--preload off" in command and "--grad-checkpointing" in command
    assert "--warmup-epochs 2" in command and "--decay-all" in command and "--resample-patch-embed" in command
    options_of(*shlex.split(command)[2:])


@pytest.mark.parametrize(("grid", "flag"), [((1e-4, 1e-3), "--lr 0.0001 0.001"), ("grid", "--lr grid")])
def test_commands_choose_among_the_same_rates(grid: Any, flag: str) -> None:
    rates = list(METHODS["lora"].config.lr_grid if grid == "grid" else grid)  # type: ignore[attr-defined]
    tuned = [on(d, "lora", 0.8, config={"lr_grid": rates, "lr": rates[i]}) for i, d in enumerate(("covid", "isic2018"))]
    (paper,) = paper_tables(summary(runs_frame([*tuned, on("messidor2", "full", 0.9)])))
    assert paper.rows["label"].to_list() == ["Full fine-tuning", "LoRA"]
    (command,) = [line for line in commands(paper.block) if "--methods lora" in line]
    assert flag in command and command.count("--lr") == 1 and "--datasets messidor2 " in command


def test_csv_and_latex_say_the_same(tmp_path: Path) -> None:
    paths = write_paper_tables(tmp_path, runs_frame(fixed_records()), published=True)
    assert [path.name for path in paths] == ["paper.md", "paper.csv", "paper.tex"]
    rows = pd.read_csv(paths[1])
    assert len(rows[rows["block"].notna()]) == 7 * 3
    assert rows["averaged_over"].dropna().unique().tolist() == ["Demo"]
    assert rows.loc[(rows["method"] == "fpt") & rows["block"].notna(), "auc Demo"].notna().all()
    text = paths[2].read_text()
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2
    assert "% not run: python bench.py" in text
    first = [path.read_bytes() for path in paths]
    assert [p.read_bytes() for p in write_paper_tables(tmp_path, runs_frame(fixed_records()[::-1]), True)] == first


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in fixed_records((512,), 1):
        write_record(tmp_path, record)
    assert main(["tables", "--layout", "paper", "--published", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [Path(path).name for path in out] == ["paper.md", "paper.csv", "paper.tex"]
    assert main(["tables", "--published", "--results", str(tmp_path)]) == 2
    assert "published must be used with --layout paper, got --layout results" in capsys.readouterr().err
