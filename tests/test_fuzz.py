"""Whatever a file holds, a user gets one line and no traceback: suite files, records, manifests, label tables.

Valid files are damaged at random, in their structure and in their bytes; images and archives in test_fuzz_files.py.
"""

import csv
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import raw_trees
import yaml
from bench_process import options_of
from damage import DEEP, as_csv, broken, damaged, folder, fuzz, fuzz_briefly, odd_tables, only_clean_errors
from fixed_records import make_record, store_with_predictions
from hypothesis import example, given
from hypothesis import strategies as st
from report_folder import predictions as make_predictions
from report_folder import write_measured
from tiny_images import COUNTS, make_images

import bench
from benchmarks.analysis.evidence import load_evidence
from benchmarks.check.problems import findings
from benchmarks.check.shortcuts import probes
from benchmarks.check.survey import survey
from benchmarks.data.dataset import open_dataset
from benchmarks.data.manifest import COLUMNS, Entry, count, split_digest, write_manifest
from benchmarks.memory.measured import read_measured
from benchmarks.memory.table import measured_rows, points_frame
from benchmarks.prepare.build import prepare
from benchmarks.prepare.find import find_samples
from benchmarks.prepare.request import Request
from benchmarks.raw.files import scan
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import load_records, write_record
from benchmarks.report.page_data import collect
from benchmarks.report.page_runs import class_results
from benchmarks.report.paper_layout import write_paper_tables
from benchmarks.report.tables import console_table, write_tables
from datasets import DATASETS

pytestmark = pytest.mark.fuzz


def parse_suite(data: bytes) -> None:
    """Parses a suite file as bench.py does, as far as a plan."""
    with folder() as place:
        path = place / "mine.yaml"
        path.write_bytes(data)
        with only_clean_errors():
            options_of("--suite", str(path))


SUITE = {
    **{"methods": ["fpt", "lora"], "res": [224, 448], "seeds": [0, 1], "lr": [0.001, "1e-4"], "epochs": 3},
    **{"grad_checkpointing": True, "preload": "off", "set": ["lora.rank=8"], "data_root": "data", "backbone": "vit"},
}


@fuzz
@given(damaged(SUITE))
def test_suite_files_of_odd_values(content: Any) -> None:
    parse_suite(yaml.safe_dump(content, allow_unicode=True).encode(errors="surrogatepass"))


@fuzz
@given(broken(yaml.safe_dump(SUITE).encode()))
@example(DEEP)
@example(b"epochs: !!bool x")
@example(b"epochs: !!timestamp x")
@example(b"epochs: !!int ''")
@example(b"epochs: 0x" + b"f" * 9000)
@example(b"a: &a [1, 2]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nepochs: [*c, *c]")
@example(b"? [epochs]\n: 3")
@example(b"methods: !!python/object/apply:os.system ['touch /tmp/x']")
def test_suite_files_of_odd_bytes(data: bytes) -> None:
    parse_suite(data)


@pytest.mark.parametrize("item", ["--help", "-h", "--overwrite"])
def test_a_value_is_never_another_option(tmp_path: Path, item: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"methods: [fpt, {item}]")
    assert options_of("--suite", str(path)).methods == ("fpt", item)  # a method of that name will not be found


RECORD = make_record("fpt", method_config={"rank": 8})
RECORD["run"]["dataset"] |= {
    "counts": {"test": {"no": 3, "yes": 3}},
    "split": {"kind": "ours", "group_key": "patient", "digest": "ab" * 32},
}
RECORD["run"]["config"]["lr_grid"] = [1e-3, 1e-2]
RECORD["run"]["tuning"] = {"chosen": 1e-2, "num_trials": 2, "at_edge": True}
RECORD["measurements"]["history"] = [{"epoch": 1, "loss": 0.5, "val_auc": 0.5}]
WHOLE = make_record("full")


def show(data: bytes) -> None:
    """Stores a record beside a whole one: it is named in one line, or goes all the way to tables and page."""
    with folder() as results:
        (results / "runs").mkdir()
        for name, content in ((RECORD["run_id"], data), (WHOLE["run_id"], json.dumps(WHOLE).encode())):
            (results / "runs" / f"{name}.json").write_bytes(content)
        records, problems = load_records(results)
        assert len(records) + len(problems) == 2 and WHOLE in records
        for line in problems:
            assert str(results) in line and len(line.splitlines()) == 1
        assert bench.main(["list", "runs", "--results", str(results)]) == bool(problems)
        if problems:
            return
        frame = runs_frame(records)
        for path in (*write_tables(results, frame), *write_paper_tables(results, frame, True)):
            assert path.read_text()
        console_table(frame)
        assert bench.main(["list", "caches", "--results", str(results), "--cache", str(results)]) == 0
        collect(results, results)


@fuzz_briefly
@given(damaged(RECORD))
@example(RECORD)
@example(RECORD | {"run": RECORD["run"] | {"weights": RECORD["run"]["weights"] | {"file": [None]}}})
@example(RECORD | {"run": RECORD["run"] | {"weights": {"source": "file", "requested": 1}}})
@example(RECORD | {"environment": RECORD["environment"] | {"host": {}}})
@example(RECORD | {"environment": RECORD["environment"] | {"host": 3}})
def test_records_of_odd_values(record: Any) -> None:
    show(json.dumps(record).encode())


with tempfile.TemporaryDirectory() as _place:
    MEASURED = json.loads(write_measured(Path(_place), "fpt", 224, {"train": 900, "preload": 800}).read_text())


@fuzz_briefly
@given(damaged(MEASURED))
@example(MEASURED)
@example(MEASURED | {"status": {"state": "ok", "message": True, "phase": None}})
@example(MEASURED | {"environment": {"device": "NVIDIA H100", "host": 3}})
@example(MEASURED | {"code": [1]})
@example(MEASURED | {"started": 3})
def test_measured_points_of_odd_values(record: Any) -> None:
    with folder() as results:
        write_record(results, WHOLE)
        path = write_measured(results, "fpt", 224, {"train": 900, "preload": 800})
        path.write_text(json.dumps(record))
        with only_clean_errors():
            collect(results, results)
        with only_clean_errors():
            points_frame(row for stored in read_measured(results) for row in measured_rows(stored))


@fuzz_briefly
@given(broken(json.dumps(RECORD).encode()))
@example(DEEP)
def test_records_of_odd_bytes(data: bytes) -> None:
    show(data)


ENTRIES = [
    Entry(f"{split}/{label}/{number}.png", split, label, f"patient {split} {number}", "raw.zip!/x.png", "")
    for split, images in COUNTS.items()
    for label in ("bright", "dark")
    for number in range(images)
]
ABOUT = {
    "schema": 1,
    **{"dataset": "images", "title": "Images", "created": "2026-01-01T00:00:00Z", "raw": "/raw", "complete": False},
    "settings": {"max_side": 1536, "seed": 0, "split_file": None, "image_level": False},
    "split": {
        "kind": "ours",
        "parts": {"train": "ours"},
        "group_key": "patient",
        "seed": 0,
        "digest": split_digest(ENTRIES),
    },
    **{"num_groups": 24, "counts": count(ENTRIES), "observed": {}, "expected": {}, "notes": ["a note"]},
    **{"licence": "", "citation": "", "url": "", "excluded": [{"id": "x.png", "reason": "missing"}]},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("fuzz") / "images")


def open_prepared(root: Path, name: str, data: bytes) -> None:
    """Opens, checks and prepares again a folder with one file of its manifest damaged."""
    write_manifest(root, ENTRIES, ABOUT)
    (root / name).write_bytes(data)
    with only_clean_errors():
        dataset = open_dataset(str(root), root.parent, root.parent / "cache")
        json.dumps(dataset.split_origin.as_json() if dataset.split_origin else None)
    with only_clean_errors():
        found = survey(root, None)
        findings(found, probes(found))
    with only_clean_errors():
        prepare(DATASETS["covid"], Request(root.parent / "none", root), lambda done, total: None, DATASETS)


@fuzz
@given(damaged(ABOUT))
@example(ABOUT)
@example({"schema": 1, "split": {}})
def test_manifests_of_odd_values(prepared: Path, about: Any) -> None:
    open_prepared(prepared, "manifest.json", json.dumps(about).encode())


@fuzz
@given(broken(json.dumps(ABOUT).encode()))
@example(DEEP)
def test_manifests_of_odd_bytes(prepared: Path, data: bytes) -> None:
    open_prepared(prepared, "manifest.json", data)


MANIFEST = [list(COLUMNS), *map(list, ENTRIES)]


@fuzz
@given(odd_tables(MANIFEST).map(as_csv) | broken(as_csv(MANIFEST)))
def test_manifest_tables_that_are_odd(prepared: Path, data: bytes) -> None:
    open_prepared(prepared, "manifest.csv", data)


LABELS = {
    "messidor_data.csv": "messidor2",
    "messidor-2.csv": "messidor2",
    "DDR-dataset/DR_grading/valid.txt": "ddr",
    "ISBI2016_ISIC_Part3_Test_GroundTruth.csv": "isic2016",
    "ISIC2018_Task3_Training_LesionGroupings.csv": "isic2018",
    "ISIC2018_Task3_Test_GroundTruth.zip": "isic2018",
    "MINI-DDSM-Complete-JPEG-8/DataWMask.xlsx": "mini_ddsm",
    "CMMD_clinicaldata_revision.xlsx": "cmmd",
}


@pytest.fixture(scope="module", params=list(LABELS))
def download(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The label table of a raw download of one dataset."""
    root = tmp_path_factory.mktemp("raw") / LABELS[request.param]
    raw_trees.BUILDERS[root.name](root)
    return root / request.param


def find(table: Path, data: bytes, suffix: str) -> None:
    """Looks through the download with other content in its label table."""
    root = next(parent for parent in table.parents if parent.name in raw_trees.BUILDERS)
    with_suffix, whole = table.with_suffix(suffix), table.read_bytes()
    table.unlink()
    with_suffix.write_bytes(data)
    try:
        with only_clean_errors():
            find_samples(DATASETS[root.name], scan(root), DATASETS)
    finally:
        with_suffix.unlink()
        table.write_bytes(whole)


def rows_of(table: Path) -> list[list[str]]:
    """The rows of a label table, read without the code under test."""
    if table.suffix == ".xlsx":
        book = openpyxl.load_workbook(table)
        return [["" if value is None else str(value) for value in row] for row in book.worksheets[-1].values]
    if table.suffix == ".zip":
        with zipfile.ZipFile(table) as archive:
            text = archive.read(next(name for name in archive.namelist() if name.endswith(".csv"))).decode()
    else:
        text = table.read_text()
    delimiter = " " if table.suffix == ".txt" else ";" if ";" in text else ","
    return list(csv.reader(text.splitlines(), delimiter=delimiter))


@fuzz
@given(st.data())
def test_label_tables_of_odd_values(download: Path, data: st.DataObject) -> None:
    rows = [row for row in data.draw(odd_tables(rows_of(download))) if row]
    if download.suffix == ".txt":
        find(download, "\n".join(map(" ".join, rows)).encode(errors="surrogatepass"), ".txt")
    else:
        find(download, as_csv(rows), ".csv")


@fuzz
@given(st.data())
def test_label_tables_of_odd_bytes(download: Path, data: st.DataObject) -> None:
    find(download, data.draw(broken(download.read_bytes())), download.suffix)


PREDICTIONS = make_predictions(1).to_csv(index=False)


@fuzz
@given(broken(PREDICTIONS.encode()) | odd_tables(list(csv.reader(PREDICTIONS.splitlines()))).map(as_csv))
def test_predictions_that_are_odd(data: bytes) -> None:
    with folder() as results:
        (results / "runs").mkdir()
        path = results / "runs" / f"{RECORD['run_id']}.predictions.csv"
        path.write_bytes(data)
        evidence, problems = load_evidence(results, runs_frame([RECORD]))
        assert len(evidence) + len(problems) == 1
        for line in problems:
            assert str(path) in line and len(line.splitlines()) == 1
        for found in evidence.values():
            assert sum(map(sum, class_results(found)["confusion"])) == found.class_images.sum()


@fuzz_briefly
@given(st.data())
def test_damaged_statistics_are_made_again(data: st.DataObject) -> None:
    with folder() as results:
        record = make_record("lora")
        store_with_predictions(results, record, 1.0, num_images=8)
        frame = runs_frame([record])
        whole, _ = load_evidence(results, frame)
        (kept,) = (results / ".statistics").iterdir()
        kept.write_bytes(data.draw(broken(kept.read_bytes())))
        again, problems = load_evidence(results, frame)
        assert problems == [] and again[record["run_id"]].auc == whole[record["run_id"]].auc
