"""Models in use on the page: what they cost, what they score on other images; nothing where neither is stored."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser, console, set_width
from fixed_records import MIB, make_record, store_with_predictions
from selenium.webdriver import Chrome
from test_page import choose, find, settle, texts

from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.stored_costs import read_costs, store_cost
from benchmarks.records.record import read_record
from benchmarks.records.stored import evaluation_results
from benchmarks.report.html_page import make_page, write_report
from benchmarks.report.page_data import collect

HOSTILE = "<img src=x onerror=alert(1)>"


def cost(method: str, batch_size: int, resolution: int = 448, merged: bool = False, **more: Any) -> dict[str, Any]:
    point = MemoryPoint(method, resolution, batch_size, precision="bf16", attention="sdpa", preload=False)
    return {
        **{"point": point.as_dict(), "views": [resolution, 224] if method == "fpt" else [resolution]},
        **{"merged": merged, "predicted_bytes": 400 * MIB + batch_size * MIB, "flops": 214_000_000_000},
        **{"task_bytes": 6 * MIB, "shared_bytes": 330 * MIB},
    } | more


def store_runs(results: Path) -> None:
    for method in ("full", "fpt"):
        for resolution in (224, 448):
            for seed in range(2):
                store_with_predictions(results, make_record(method, resolution, seed), 2.0)


def evaluate_elsewhere(results: Path) -> None:
    """As `bench.py evaluate` would have, of the runs at 448 px, on worse images of a hostile name."""
    for path in sorted((results / "runs").glob("*_448_*.json")):
        run = read_record(path)
        record = make_record(run["run"]["config"]["method"], 448, run["run"]["config"]["seed"])
        record |= {"run_id": f"{run['run_id']}@other-0123456789"}
        record["evaluation"] = {
            **{"kind": "data", "run_id": run["run_id"], "run_predictions_sha256": run["predictions_sha256"]},
            **{
                "model_sha256": "0" * 64,
                "data": {"name": HOSTILE, "digest": "e" * 64, "counts": {"no": 30, "yes": 30}},
            },
        }
        store_with_predictions(evaluation_results(results), record, 0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("use")
    store_runs(results)
    evaluate_elsewhere(results)
    for size, seconds in ((1, 0.004), (16, 0.032)):
        timed: dict[str, Any] = {"seconds": seconds, "timed_on": "NVIDIA H100", "measured_bytes": 410 * MIB}
        store_cost(results, cost("full", size, **timed))
        store_cost(results, cost("fpt", size, **timed))
        store_cost(results, cost("full", size))  # what is not timed says nothing more
    store_cost(results, cost("lora", 1, 224, merged=True))
    write_report(results, results / "report.html")
    return results


def test_what_is_stored_is_what_is_shown(folder: Path) -> None:
    use, elsewhere = collect(folder, folder).shown["use"]
    untimed, timed = sorted(use["tables"], key=lambda table: len(table["columns"]))
    assert "not timed" in untimed["caption"] and timed["caption"].endswith("sdpa attention; time of NVIDIA H100.")
    shown = [dict(zip(timed["columns"], row["cells"], strict=True)) for row in timed["rows"]]
    assert [row["Method"] for row in shown] == ["Full fine-tuning", "FPT"]
    assert shown[1] == {
        **{"Method": "FPT", "Sides (px)": "448 + 224", "s, 1": "0.004", "Images/s, 1": "250"},
        **{"s, 16": "0.002", "Images/s, 16": "500", "MiB, 1": "401", "Measured, 1": "410"},
        **{"MiB, 16": "416", "Measured, 16": "410", "GFLOPs": "214"},
        **{"A task": "6", "Shared": "330"},
    }
    (row,) = untimed["rows"]
    assert row["cells"][0] == "LoRA, merged" and "s, 1" not in untimed["columns"]
    (table,) = elsewhere["tables"]
    assert HOSTILE in table["caption"] and len(table["rows"]) == 2
    for row in table["rows"]:
        inside, outside = (
            [
                record["measurements"]["test"]["auc"]
                for record in map(read_record, sorted(place.glob(f"{found}_448_*.json")))
            ]
            for found in [{"Full fine-tuning": "full", "FPT": "fpt"}[row["label"]]]
            for place in (folder / "runs", evaluation_results(folder) / "runs")
        )
        cells = dict(zip(table["columns"], row["cells"], strict=True))
        assert cells["AUC on other images (%)"].startswith(f"{50 * sum(outside):.2f}")
        change = f"{50 * (sum(inside) - sum(outside)):+.2f}".replace("-", "−")
        assert cells["Drop, 95 % CI (p)"].startswith(f"{change}, ") and " to " in cells["Drop, 95 % CI (p)"]


def test_a_page_that_knows_neither_is_what_it_was(tmp_path: Path) -> None:
    """No byte of it is about what there is not."""
    store_runs(tmp_path)
    page = collect(tmp_path, tmp_path)
    before = make_page(page)
    assert "use" not in page.shown and "drawUse" not in before
    store_cost(tmp_path, cost("full", 1))
    with_use = collect(tmp_path, tmp_path)
    assert "drawUse" in make_page(with_use)
    assert {name: value for name, value in with_use.shown.items() if name != "use"} == page.shown


def test_a_page_for_reviewers_names_no_cpu(tmp_path: Path) -> None:
    store_runs(tmp_path)
    store_cost(tmp_path, cost("full", 1, seconds=2.0, timed_on="Xeon of ours, 3 threads", device_type="cpu"))
    assert "time of Xeon of ours, 3 threads." in str(collect(tmp_path, tmp_path).shown["use"])
    nameless = str(collect(tmp_path, tmp_path, nameless=True).shown)
    assert "time of a CPU." in nameless and "Xeon of ours" not in nameless


def test_a_cost_that_was_changed_is_said_and_not_shown(tmp_path: Path) -> None:
    store_runs(tmp_path)
    path = store_cost(tmp_path, cost("full", 1))
    assert read_costs(tmp_path)[1] == []
    path.write_bytes(path.read_bytes().replace(b"214000000000", b"114000000000"))
    page = collect(tmp_path, tmp_path)
    assert "use" not in page.shown and len(page.problems) == 1
    assert "cost must be what was stored" in page.problems[0] and str(tmp_path) not in str(page.shown["problems"])
    path.write_text(json.dumps({"schema": 1}))
    assert "point" in read_costs(tmp_path)[1][0]


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.browser
def test_the_panels_are_drawn_filtered_and_fit_a_phone(chrome: Chrome, folder: Path) -> None:
    set_width(chrome, 1280, 900)
    chrome.get((folder / "report.html").as_uri())
    settle(chrome)
    assert console(chrome) == []  # a name that acts as markup would ask for an image
    assert texts(chrome, "nav a")[-3:] == ["What using a model costs", "On other images", "How it was measured"]
    assert texts(chrome, "#use tbody th") == ["LoRA, merged", "Full fine-tuning", "FPT"]
    assert texts(chrome, "#elsewhere tbody th") == ["Full fine-tuning", "FPT"]
    assert HOSTILE in find(chrome, "#elsewhere-tables").text
    choose(chrome, "filter-label", "FPT")
    assert texts(chrome, "#use tbody th") == texts(chrome, "#elsewhere tbody th") == ["FPT"]
    choose(chrome, "filter-resolution", "224 px")
    assert texts(chrome, "#use tbody th") == [] and "Nothing matches" in find(chrome, "#use-empty").text
    find(chrome, "#filters button").click()
    set_width(chrome, 390)
    assert chrome.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
