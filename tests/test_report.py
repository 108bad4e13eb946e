"""The page as data and text: what is on it, that names cannot act in it, and what is said when something is missing."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fixed_records import MIB, make_record
from report_folder import CLASSES, HOSTILE_CLASS, NUM_IMAGES, add_details, make_folder, predictions, write_measured
from sklearn.metrics import precision_score, recall_score

import bench
from benchmarks.analysis.summary import summary
from benchmarks.records.record import load_records, write_record
from benchmarks.records.schema import Record
from benchmarks.report import page_data
from benchmarks.report.html_page import PAGE, SCRIPTS, embed, write_report
from benchmarks.report.page_data import class_results, collect


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    make_folder(results)
    return results


@pytest.fixture(scope="module")
def data(folder: Path) -> dict[str, Any]:
    records, problems = load_records(folder)
    return collect(folder, folder, records, problems)


def rows_of(data: dict[str, Any], method: str, resolution: int = 448, group: int = 1) -> dict[str, Any]:
    (row,) = [
        row for row in data["rows"] if (row["method"], row["resolution"], row["group"]) == (method, resolution, group)
    ]
    return dict(row)


def test_rows_are_those_of_the_tables(data: dict[str, Any]) -> None:
    titles = [column["title"] for column in data["columns"]]
    cells = dict(zip(titles, rows_of(data, "fpt")["cells"], strict=True))
    assert cells["Memory (MiB)"] == ["1,222", "", 0]
    assert cells["Preload (MiB)"] == ["1,730", "", 0]
    assert cells["Trainable (%)"][0] == "1.81"
    assert rows_of(data, "lora")["cells"][titles.index("Seeds")] == ["1 of 2", "§", 0]
    fallback = dict(zip(titles, rows_of(data, "fpt", group=0)["cells"], strict=True))
    assert fallback["Memory (MiB)"][:2] == ["1,222", "†"]
    assert [group["synthetic"] for group in data["groups"]] == [True, False]
    assert len(data["rows"]) == 7 * 2 * 2


def test_costs_say_what_is_predicted(data: dict[str, Any]) -> None:
    assert rows_of(data, "fpt")["costs"] == {
        "train": [1_222 * MIB, False],
        "highest": [1_730 * MIB, False],
        "trainable": [1_601_856 + 3_845, False],
    }
    assert rows_of(data, "fpt", group=0)["costs"]["highest"] == [1_730 * MIB, True]
    assert rows_of(data, "full")["costs"]["highest"] == [15_340 * MIB, False]


def test_every_run_belongs_to_its_row(folder: Path, data: dict[str, Any]) -> None:
    records, _ = load_records(folder)
    assert [run["id"] for run in data["runs"]] == [record["run_id"] for record in records]
    for run, record in zip(data["runs"], records, strict=True):
        row, config = data["rows"][run["row"]], record["run"]["config"]
        assert (row["method"], row["resolution"]) == (config["method"], config["resolution"])
        assert data["groups"][row["group"]]["synthetic"] == record["run"]["dataset"]["synthetic"]


def test_a_run_that_the_table_leaves_out_keeps_its_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "summary", lambda frame, *_: summary(frame[frame["method"] != "lora"]))
    page = collect(folder, folder, load_records(folder)[0])
    left_out = {run["id"] for run in page["runs"] if run["row"] is None}
    assert left_out == {name for name in page["records"] if name.startswith("lora_")} != set()
    assert {point["label"] for point in page["memory"] if point["record"] in left_out} == set()


def test_memory_prefers_nothing_and_counts_what_a_card_needs(data: dict[str, Any]) -> None:
    (point,) = [p for p in data["memory"] if (p["method"], p["resolution"]) == ("linear", 1024)]
    assert (point["source"], point["device"], point["oom"]) == ("measured", "NVIDIA H100", False)
    assert (point["train"], point["preload"]) == (20 * 1024 * MIB, 880 * MIB)
    assert point["needs"] == int(20 * 1024 * MIB * 1.05) + 758 * MIB
    assert point["setting"] == "vit_base_patch16_384, batch size 16, bf16, sdpa attention"
    assert data["records"][point["record"]]["content"]["point"]["method"] == "linear"
    both = [p["source"] for p in data["memory"] if (p["method"], p["resolution"], p["label"][-1]) == ("lora", 448, "A")]
    assert sorted(both) == ["measured", "predicted", "predicted"]  # on the GPU both, on the laptop a prediction


def test_out_of_memory_is_a_point_without_bytes(tmp_path: Path) -> None:
    write_record(tmp_path, make_record("full", state="oom", phase="train"))
    records, _ = load_records(tmp_path)
    points = collect(tmp_path, tmp_path, records)["memory"]
    assert [(p["source"], p["oom"], p["needs"] is None) for p in points] == [
        ("measured", True, True),
        ("predicted", False, False),
    ]


def test_class_results_equal_those_of_scikit_learn(tmp_path: Path) -> None:
    frame = predictions(3)
    frame.to_csv(tmp_path / "p.csv", index=False)
    results = class_results(tmp_path / "p.csv")
    test = frame[frame["split"] == "test"]
    called = test.set_axis([*test.columns[:3], *CLASSES], axis=1)[list(CLASSES)].idxmax(axis=1)
    shared: dict[str, Any] = {"labels": list(CLASSES), "average": None}
    assert results["classes"] == list(CLASSES)
    assert sum(map(sum, results["confusion"])) == NUM_IMAGES - 20
    assert results["sensitivity"] == pytest.approx(recall_score(test["label"], called, **shared))
    assert results["precision"] == pytest.approx(precision_score(test["label"], called, **shared))
    others = [recall_score(test["label"] != name, called != name) for name in CLASSES]
    assert results["specificity"] == pytest.approx(others)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("split,path,label,prob_a\nval,1.png,a,1.0\n", "no image of the test split"),
        ("split,path,label,prob_a\ntest,1.png,b,1.0\n", "no column for class b"),
        ("split,path,label,prob_a\ntest,1.png,a,much\n", "could not convert string to float: 'much'"),
        ("path,label\n1.png,a\n", "'split'"),
        ("", "No columns to parse from file"),
    ],
)
def test_damaged_predictions_are_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    match = (
        rf"^predictions must be readable, got .*p\.csv' \({re.escape(reason)}\): delete the run's record and run again$"
    )
    with pytest.raises(ValueError, match=match):
        class_results(path)


def test_logits_tell_apart_what_probabilities_do_not(tmp_path: Path) -> None:
    columns = "split,path,label,prob_a,prob_b,logit_a,logit_b"
    (tmp_path / "p.csv").write_text(f"{columns}\ntest,1,a,0.5,0.5,1e-18,2e-18\ntest,2,b,0.5,0.5,2e-18,1e-18\n")
    assert class_results(tmp_path / "p.csv")["confusion"] == [[0, 1], [1, 0]]


def test_a_class_called_na_is_a_class(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("split,path,label,prob_NA,prob_1\ntest,1.png,NA,0.9,0.1\ntest,2.png,1,0.2,0.8\n")
    assert class_results(tmp_path / "p.csv")["confusion"] == [[1, 0], [0, 1]]


def test_columns_of_the_summary_that_the_page_does_not_know_appear(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"p_value": 0.04125, "gap_bytes": 3 * MIB}
    monkeypatch.setattr(page_data, "summary", lambda frame, *_: summary(frame).assign(**more))
    page = collect(folder, folder, load_records(folder)[0])
    at = page["extra"].index("p value")
    assert page["extra"][at : at + 2] == ["p value", "gap (MiB)"]
    assert page["rows"][0]["extra"][at : at + 2] == ["0.04125", "3"]
    assert "kappa mean" in page["extra"] and "dataset digest" not in page["extra"]


def test_methods_are_told_apart_without_colour(data: dict[str, Any]) -> None:
    symbols = [look["symbol"] for look in data["styles"].values()]
    assert len(set(symbols)) == len(symbols) == 7


def test_page_holds_everything_and_asks_for_nothing(folder: Path, tmp_path: Path) -> None:
    records, _ = load_records(folder)
    path, problems = write_report(folder, tmp_path / "deep" / "page.html", records)
    assert problems == []
    text = path.read_text()
    assert 4 * MIB < len(text.encode()) < 6 * MIB
    own = re.sub(r"<script>\s*/\*\*\s*\* plotly\.js.*?</script>", "", text, count=1, flags=re.DOTALL)
    assert len(own) < MIB
    assert "default-src 'none'" in own
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(""", own)
    assert "patient-" not in text  # names of images may tell who is on them
    data = embedded_data(text)
    for name, record in data["records"].items():
        stored = path.parent / unquote(record["href"])
        assert stored.is_file() and json.loads(stored.read_text()).keys() == record["content"].keys(), name


def embedded_data(text: str) -> dict[str, Any]:
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert embedded
    return dict(json.loads(embedded[1]))


def test_names_cannot_end_the_script_or_fill_a_place(folder: Path, tmp_path: Path) -> None:
    text = write_report(folder, tmp_path / "page.html", load_records(folder)[0])[0].read_text()
    assert HOSTILE_CLASS not in text
    assert "<img src=x" not in text
    assert embedded_data(text)["groups"][1]["dataset"].endswith("{{data}}")
    assert embed({"a": "</script><!--"}) == r'{"a":"\u003c/script>\u003c!--"}'
    for name in SCRIPTS:
        assert "</script" not in (PAGE / name).read_text()


def test_page_is_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    records, _ = load_records(folder)
    first, second = (write_report(folder, tmp_path / name, records)[0].read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = bench.main(["report", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_command_writes_into_the_results_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = stored_run(tmp_path)
    assert report(capsys, "--results", tmp_path) == (0, f"{tmp_path / 'report.html'}\n", "")
    assert report(capsys, "--results", tmp_path, "--output", tmp_path / "x.html")[1] == f"{tmp_path / 'x.html'}\n"
    assert list(embedded_data((tmp_path / "x.html").read_text())["records"]) == [one["run_id"]]


def stored_run(results: Path, with_predictions: bool = True) -> Record:
    record, made = make_record("fpt"), predictions(0)
    add_details(record, 0, made)
    path = write_record(results, record)
    if with_predictions:
        made.to_csv(path.with_suffix(".predictions.csv"), index=False)
    return record


def test_what_cannot_be_read_is_said_on_the_page_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored_run(tmp_path, with_predictions=False)
    (tmp_path / "runs" / "broken.json").write_text("{")
    status, out, err = report(capsys, "--results", tmp_path)
    assert status == 1 and out
    damaged, unread = err.splitlines()
    assert re.match(r"record must be readable, got .*broken\.json", damaged)
    assert re.match(r"predictions must be readable, got .*fpt_448_0_a\.predictions\.csv' \(\[Errno 2\]", unread)
    assert embedded_data((tmp_path / "report.html").read_text())["problems"] == [damaged, unread]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = report(capsys, "--results", tmp_path)
    assert (status, out) == (2, "")
    assert re.match(r"bench\.py: no records under .*runs; run bench\.py --methods \.\.\. first\n$", err)
    stored_run(tmp_path)
    status, _, err = report(capsys, "--results", tmp_path, "--output", tmp_path)
    assert status == 2
    assert re.match(r"bench\.py: output must be a file, got '.*': name one like '.*report\.html'\n$", err)
    blocked = tmp_path / "report.html" / "x.html"
    blocked.parent.write_text("a file")
    status, _, err = report(capsys, "--results", tmp_path, "--output", blocked)
    assert status == 2
    assert re.match(r"bench\.py: output must be a file that can be written, got '.*x\.html' \(.+\)\n$", err)


def test_measured_memory_alone_makes_a_page(tmp_path: Path) -> None:
    write_measured(tmp_path, "fpt", 512, {"train": 700, "preload": 900})
    page = collect(tmp_path, tmp_path, [])
    assert (page["rows"], page["runs"], len(page["memory"])) == ([], [], 1)
    name = "measured/nvidia-h100/fpt_vit_base_patch16_384_512px_b16_bf16_sdpa_c5"
    assert page["records"][name]["href"] == f"{name}.json"
    assert page["memory"][0]["needs"] == int(900 * MIB * 1.05) + 758 * MIB


def test_numbers_are_finite_and_short(data: dict[str, Any]) -> None:
    text = embed(data)
    assert "NaN" not in text
    digits = [number.replace(".", "").strip("0") for number in re.findall(r"[\[:,](\d+\.\d+)(?=[,}\]])", text)]
    assert len(digits) > 1000 and max(map(len, digits)) <= 6
