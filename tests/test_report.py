"""The page as data and text: what is on it, that names cannot act in it, and what is said when something is missing."""

import copy
import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fixed_records import MIB, make_record
from report_folder import CLASSES, HOSTILE_CLASS, NUM_IMAGES, add_details, make_folder, predictions, write_measured
from sklearn.metrics import precision_score, recall_score

import bench
from benchmarks.analysis.evidence import read_evidence
from benchmarks.analysis.summary import summary
from benchmarks.records.record import load_records, write_record
from benchmarks.records.schema import Record
from benchmarks.records.seal import DIGEST
from benchmarks.report import page_data
from benchmarks.report.html_page import PAGE, SCRIPTS, embed, write_report
from benchmarks.report.page_data import PageData, collect
from benchmarks.report.page_parts import pack, unpack
from benchmarks.report.page_runs import class_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    make_folder(results)
    return results


@pytest.fixture(scope="module")
def page(folder: Path) -> PageData:
    return collect(folder, folder)


@pytest.fixture(scope="module")
def data(page: PageData) -> dict[str, Any]:
    return page.shown


def rows_of(data: dict[str, Any], method: str, resolution: int = 448, group: int = 1) -> dict[str, Any]:
    (row,) = [
        row for row in data["rows"] if (row["method"], row["resolution"], row["group"]) == (method, resolution, group)
    ]
    return dict(row)


def test_rows_are_those_of_the_tables(data: dict[str, Any]) -> None:
    titles = [column["title"] for column in data["columns"]]
    cells = dict(zip(titles, rows_of(data, "fpt")["cells"], strict=True))
    assert cells["Memory (MiB)"] == ["1,730", "", 2]
    assert cells["Training (MiB)"] == ["1,222", "", 0]
    assert cells["Preload (MiB)"] == ["1,730", "", 0]
    assert cells["Trainable (%)"][0] == "1.81"
    assert rows_of(data, "lora")["cells"][titles.index("Seeds")] == ["1 of 2", "§", 0]
    fallback = dict(zip(titles, rows_of(data, "fpt", group=0)["cells"], strict=True))
    assert fallback["Memory (MiB)"][:2] == ["1,730", "†"]
    assert [group["synthetic"] for group in data["groups"]] == [True, False]
    assert len(data["rows"]) == 7 * 2 * 2


def test_costs_say_what_is_predicted(data: dict[str, Any]) -> None:
    assert rows_of(data, "fpt")["costs"] == {
        "run": [1_730 * MIB, False],
        "alone": [1_222 * MIB, False],
        "train": [1_222 * MIB, False],
        "trainable": [1_601_856 + 3_845, False],
    }
    assert rows_of(data, "fpt", group=0)["costs"]["run"] == [1_730 * MIB, True]
    assert rows_of(data, "full")["costs"]["run"] == [15_340 * MIB, False]


def test_every_run_belongs_to_its_row(folder: Path, data: dict[str, Any]) -> None:
    records, _ = load_records(folder)
    assert data["runs"]["id"] == [record["run_id"] for record in records]
    assert data["runs"]["state"] == [record["status"]["state"] for record in records]
    for place, record in zip(data["runs"]["row"], records, strict=True):
        row, config = data["rows"][place], record["run"]["config"]
        assert (row["method"], row["resolution"]) == (config["method"], config["resolution"])
        assert data["groups"][row["group"]]["synthetic"] == record["run"]["dataset"]["synthetic"]


def test_a_run_that_the_table_leaves_out_keeps_its_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "summary", lambda frame, *_: summary(frame[frame["method"] != "lora"]))
    page = collect(folder, folder)
    runs = page.shown["runs"]
    left_out = {run_id for run_id, row in zip(runs["id"], runs["row"], strict=True) if row is None}
    assert left_out == {run_id for run_id in runs["id"] if run_id.startswith("lora_")} != set()
    assert unpack(page.parts["apart"])[0].keys() == left_out
    assert {point["label"] for point in page.shown["memory"] if point["record"] in left_out} == set()


def test_memory_prefers_nothing_and_counts_what_a_card_needs(page: PageData) -> None:
    data = page.shown
    (point,) = [p for p in data["memory"] if (p["method"], p["resolution"]) == ("linear", 1024)]
    assert (point["source"], point["device"], point["oom"]) == ("measured", "NVIDIA H100", False)
    assert (point["run"], point["train"], point["preload"]) == (20 * 1024 * MIB, 20 * 1024 * MIB, 880 * MIB)
    assert point["needs"] == int(20 * 1024 * MIB * 1.05) + 758 * MIB
    assert point["setting"] == "vit_base_patch16_384, batch size 16, bf16, sdpa attention"
    assert unpack(page.parts["measured"])[0][point["record"]]["point"]["method"] == "linear"
    both = [p["source"] for p in data["memory"] if (p["method"], p["resolution"], p["label"][-1]) == ("lora", 448, "A")]
    assert sorted(both) == ["measured", "predicted", "predicted"]  # on the GPU both, on the laptop a prediction


def test_out_of_memory_is_a_point_without_bytes(tmp_path: Path) -> None:
    write_record(tmp_path, make_record("full", state="oom", phase="train"))
    points = collect(tmp_path, tmp_path).shown["memory"]
    assert [(p["source"], p["oom"], p["needs"] is None) for p in points] == [
        ("measured", True, True),
        ("predicted", False, False),
    ]


def test_class_results_equal_those_of_scikit_learn() -> None:
    frame = predictions(3)
    results = class_results(read_evidence(frame.to_csv(index=False).encode()))
    test = frame[frame["split"] == "test"]
    called = test.set_axis([*test.columns[:3], *CLASSES], axis=1)[list(CLASSES)].idxmax(axis=1)
    shared: dict[str, Any] = {"labels": list(CLASSES), "average": None}
    assert results["classes"] == CLASSES
    assert sum(map(sum, results["confusion"])) == NUM_IMAGES - 20
    assert results["sensitivity"] == pytest.approx(recall_score(test["label"], called, **shared))
    assert results["precision"] == pytest.approx(precision_score(test["label"], called, **shared))
    others = [recall_score(test["label"] != name, called != name) for name in CLASSES]
    assert results["specificity"] == pytest.approx(others)


def test_logits_tell_apart_what_probabilities_do_not() -> None:
    columns = "split,path,label,prob_a,prob_b,logit_a,logit_b"
    made = read_evidence(f"{columns}\ntest,1,a,0.5,0.5,1e-18,2e-18\ntest,2,b,0.5,0.5,2e-18,1e-18\n".encode())
    assert class_results(made)["confusion"] == [[0, 1], [1, 0]]


def test_a_class_that_is_never_called_has_no_precision_and_one_called_na_is_a_class() -> None:
    made = read_evidence(b"split,path,label,prob_NA,prob_1\ntest,1.png,NA,0.9,0.1\ntest,2.png,1,0.8,0.2\n")
    results = class_results(made)
    assert (results["classes"], results["confusion"]) == (("NA", "1"), [[1, 0], [1, 0]])
    assert (results["precision"], results["sensitivity"]) == ([0.5, None], [1.0, 0.0])
    assert results["specificity"] == [0.0, 1.0]


def test_columns_of_the_summary_that_the_page_does_not_know_appear(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"p_value": 0.04125, "gap_bytes": 3 * MIB}
    monkeypatch.setattr(page_data, "summary", lambda frame, *_: summary(frame).assign(**more))
    page = collect(folder, folder).shown
    at = page["extra"].index("p value")
    assert page["extra"][at : at + 2] == ["p value", "gap (MiB)"]
    assert page["rows"][0]["extra"][at : at + 2] == ["0.04125", "3"]
    assert "kappa mean" in page["extra"] and "dataset digest" not in page["extra"]


def test_methods_are_told_apart_without_colour(data: dict[str, Any]) -> None:
    symbols = [look["symbol"] for look in data["styles"].values()]
    assert len(set(symbols)) == len(symbols) == 7


def test_page_holds_everything_and_asks_for_nothing(folder: Path) -> None:
    path, problems = write_report(folder, folder.parent / "deep" / "page.html")
    assert problems == []
    text = path.read_text()
    assert MIB < len(text.encode()) < 3 * MIB
    own = re.sub(r'<script type="text/plain" id="plotly">[^<]*</script>', "", text, count=1)
    assert len(own) < MIB
    assert "default-src 'none'" in own
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(""", own)
    assert "patient-" not in text  # names of images may tell who is on them
    data, parts = embedded_data(text), embedded_parts(text)
    assert {*data["runs"]["part"], "measured"} == parts.keys()
    shown = {name: record for part in parts.values() for name, record in part[0].items()}
    assert shown.keys() == {*data["runs"]["id"], *data["measured"]}
    for name, record in shown.items():
        stored = path.parent / unquote(data["folder"]) / ("" if "/" in name else "runs") / f"{name}.json"
        assert json.dumps(record) == json.dumps(as_shown(stored)), name
    for name, part in parts.items():
        finished = {run_id for run_id, content in part[0].items() if content["status"]["state"] == "ok"}
        assert part[1].keys() == (set() if name == "measured" else finished)
        assert all("patient-" not in json.dumps(content) for content in part)


def as_shown(stored: Path) -> Any:
    """A stored record as the page shows it: without the digest, which is of that file."""
    content = json.loads(stored.read_text())
    content.pop(DIGEST, None)
    return rounded(content)


def rounded(value: Any) -> Any:
    """A number to the six digits that the page shows, anywhere in a record."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


ODD: list[Any] = [
    {"a": "1.23456789", "b": [], "c": {}, "d": None, "e": [1.23456789, -2e-9, 12345678.5, True], "-1": "null, true"},
    {"a": '"quoted" \\ \n \u2028 é 中', "b": [], "c": {}, "d": False, "e": [0.5, 3, 10**30, None], "-1": ""},
    {"a": "other shape", "b": [[1], {"x": "</script>"}]},
    {},
]


def test_records_come_out_of_a_part_as_they_went_in() -> None:
    records, classes = unpack(pack({f"run {i}": record for i, record in enumerate(ODD)}, {"run 1": {"classes": ["é"]}}))
    assert {name: json.dumps(record) for name, record in records.items()} == {
        f"run {i}": json.dumps(rounded(record)) for i, record in enumerate(ODD)
    }
    assert classes == {"run 1": {"classes": ["é"]}}


def test_records_with_the_same_keys_and_values_in_other_places_stay_apart() -> None:
    alike: list[Any] = [
        {"a": {"b": {}}, "b": 1},
        {"a": {"b": 1}, "b": {}},
        {"b": 1, "a": {"b": {}}},
        [{"a": 1}],
        {"a": [1]},
    ]
    values: list[Any] = [1, 1.0, True, 0.0, -0.0, "1", None, [], {}, ""]
    alike += [{"a": value} for value in values]
    contents = {str(i): record for i, record in enumerate(alike)}
    records, _ = unpack(pack(contents, {}))
    assert {name: json.dumps(record) for name, record in records.items()} == {
        name: json.dumps(record) for name, record in contents.items()
    }


def test_records_that_differ_little_take_little() -> None:
    records, _ = load_records(Path(__file__).parent.parent / "results" / "demo")
    contents = {}
    for seed in range(100):
        records[0]["run"]["config"]["seed"] = seed
        contents[str(seed)] = copy.deepcopy(records[0])
    assert len(pack(contents, {})) < len(json.dumps(contents["0"])) / 2


def embedded_parts(text: str) -> dict[str, Any]:
    parts = re.findall(r'<script type="text/plain" id="part-([\w-]+)">([\w+/=]*)</script>', text)
    return {name: unpack(b64decode(part)) for name, part in parts}


def embedded_data(text: str) -> dict[str, Any]:
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert embedded
    return dict(json.loads(embedded[1]))


def test_names_cannot_end_the_script_or_fill_a_place(folder: Path, tmp_path: Path) -> None:
    text = write_report(folder, tmp_path / "page.html")[0].read_text()
    assert HOSTILE_CLASS not in text
    assert "<img src=x" not in text
    assert embedded_data(text)["groups"][1]["dataset"].endswith("{{data}}")
    assert embed({"a": "</script><!--"}) == r'{"a":"\u003c/script>\u003c!--"}'
    for name in SCRIPTS:
        assert "</script" not in (PAGE / name).read_text()


def test_page_is_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    first, second = (write_report(folder, tmp_path / name)[0].read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = bench.main(["report", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_command_writes_into_the_results_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = stored_run(tmp_path)
    assert report(capsys, "--results", tmp_path) == (0, f"{tmp_path / 'report.html'}\n", "")
    assert report(capsys, "--results", tmp_path, "--output", tmp_path / "x.html")[1] == f"{tmp_path / 'x.html'}\n"
    assert embedded_data((tmp_path / "x.html").read_text())["runs"]["id"] == [one["run_id"]]


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
    assert re.match(
        r"predictions must be there, got no '.*/fpt_448_0_a\.predictions\.csv': delete the run's rec", unread
    )
    shown = embedded_data((tmp_path / "report.html").read_text())["problems"]
    assert shown == [line.replace(str(tmp_path), "<results>") for line in (damaged, unread)] != [damaged, unread]


def test_links_name_no_folder_above_the_results(tmp_path: Path) -> None:
    for place, link in (("a", "results/"), ("a/results", ""), ("a/pages", "../results/"), ("b/c", None)):
        assert collect(tmp_path / "a" / "results", tmp_path / place).shown["folder"] == link
    assert collect(tmp_path / "results", tmp_path, nameless=True).shown["folder"] is None


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
    page, parts, _ = collect(tmp_path, tmp_path)
    assert (page["rows"], page["runs"]["id"], len(page["memory"])) == ([], [], 1)
    name = "measured/nvidia-h100/fpt_vit_base_patch16_384_512px_b16_bf16_sdpa_c5"
    assert page["measured"] == [name] == list(unpack(parts["measured"])[0]) and page["folder"] == ""
    assert page["memory"][0]["needs"] == int(900 * MIB * 1.05) + 758 * MIB


def test_numbers_are_finite_and_short(data: dict[str, Any]) -> None:
    text = embed(data)
    assert "NaN" not in text
    digits = [number.replace(".", "").strip("0") for number in re.findall(r"[\[:,](\d+\.\d+)(?=[,}\]])", text)]
    assert len(digits) > 30 and max(map(len, digits)) <= 6
