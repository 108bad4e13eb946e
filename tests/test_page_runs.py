"""Parts of the page that are kept: the page is the one that is made without them, and each goes with its files."""

import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixed_records import make_record, store_with_predictions
from test_damaged import DAMAGES, EDITED, record_of
from test_report import embedded_parts

from benchmarks.records import frame, index, record
from benchmarks.records.schema import Record
from benchmarks.report import page_runs
from benchmarks.report.html_page import write_report
from benchmarks.report.page_parts import pack
from benchmarks.storage import notes

SIDES = (448, 512)
NUM_RUNS = 2 * len(SIDES) * 2


def run(method: str, seed: int, resolution: int = 448) -> Record:
    return make_record(method, seed=seed, resolution=resolution)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two seeds of two methods at two resolutions, enough to keep parts of, and as if from long ago."""
    for module in (record, frame, page_runs):
        monkeypatch.setattr(module, "LEAST", NUM_RUNS - 1)
    monkeypatch.setattr(index, "SETTLED", -(10**12))
    monkeypatch.setattr(notes, "_SAID", [set()])
    for resolution in SIDES:
        for method in ("full", "lora"):
            for seed in range(2):
                store_with_predictions(tmp_path / "results", run(method, seed, resolution), 1.0)
    return tmp_path / "results"


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The runs of each part that was made."""
    made: list[set[str]] = []

    def noted(contents: dict[str, Any], *others: Any) -> bytes:
        made.append(set(contents))
        return pack(contents, *others)

    monkeypatch.setattr(page_runs, "pack", noted)
    return made


def page(results: Path, nameless: bool = False) -> str:
    return write_report(results, results / "report.html", nameless=nameless)[0].read_text()


def test_the_page_is_the_one_that_is_made_without_them(results: Path, packed: list[set[str]]) -> None:
    made = page(results)
    assert sorted(map(len, packed)) == [4, 4] and len(list((results / ".index").glob("page-*"))) == 2
    packed.clear()
    assert page(results) == made and packed == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in (results / ".index").iterdir()} == {0o600}
    for folder in (".index", ".statistics"):
        shutil.rmtree(results / folder)
        assert page(results) == made
    whole = embedded_parts(made)
    assert sum(len(records) for records, _ in whole.values()) == NUM_RUNS


def test_only_the_part_of_what_has_changed_is_made_again(
    results: Path, packed: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = page(results)
    packed.clear()
    store_with_predictions(results, run("lora", 1, 512), 2.0)
    after = page(results)
    assert [{name.split("_")[1] for name in names} for names in packed] == [{"512"}]
    assert len(packed[0]) == 4 and before != after
    shutil.rmtree(results / ".index")
    assert page(results) == after
    packed.clear()
    store_with_predictions(results, run("lora", 2, 512), 2.0)
    assert len(embedded_parts(page(results))["0-512"][0]) == 5 and len(packed) == 1
    for path in (results / "runs").glob("*_448_*"):
        path.unlink()
    monkeypatch.setattr(page_runs, "LEAST", 1)
    assert page(results).count("part-0-") == 1
    assert [path.name for path in (results / ".index").glob("page-*")] == ["page-0-512"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_its_part_not_kept(
    results: Path, damage: Callable[[Path], Path], packed: list[set[str]]
) -> None:
    page(results)
    path = damage(results)
    for _ in range(2):
        packed.clear()
        output, problems = write_report(results, results / "report.html")
        assert len(problems) >= 1 and str(path) in problems[0]
        assert [EDITED in names for names in packed] in ([True], [])  # what cannot be read is on no page
        contents = {
            name: content for part in embedded_parts(output.read_text()).values() for name, content in part[0].items()
        }
        assert contents.get(EDITED, {"status": {"state": "damaged"}})["status"]["state"] == "damaged"


def test_other_code_and_a_damaged_part_are_made_anew(
    results: Path, packed: list[set[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = page(results)
    packed.clear()
    kept = sorted((results / ".index").glob("page-*"))[0]
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert page(results) == made and len(packed) == 1
    assert re.search(rf"note: \.index/{kept.name} is made anew: its content must", capsys.readouterr().err)
    assert kept.read_bytes() == whole
    monkeypatch.setattr(page_runs, "_CODE", "other")
    assert page(results) == made and len(packed) == 3


def test_what_tells_a_machine_is_never_taken_from_them(results: Path, packed: list[set[str]]) -> None:
    page(results)
    packed.clear()
    first = page(results, nameless=True)
    assert len(packed) == 2
    shutil.rmtree(results / ".index")
    assert page(results, nameless=True) == first and not list((results / ".index").glob("page-*"))


def test_what_has_just_changed_is_not_kept(
    results: Path, packed: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SETTLED", 10**12)
    assert page(results) == page(results) and len(packed) == 4
    record_of(results).touch()
    assert not list((results / ".index").glob("page-*"))
