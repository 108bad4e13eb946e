"""The index of records: it gives what reading gives, of files that have not changed; of all others it is not asked."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fixed_records import make_record, store_with_predictions
from test_damaged import DAMAGES, EDITED, record_of

from bench import main
from benchmarks.records import frame, index, kept_frame, record
from benchmarks.records.frame import load_frame
from benchmarks.records.record import load_records, predictions_path, write_record
from benchmarks.storage import notes

NUM_RUNS = 6


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three seeds of two methods, enough for an index and as if from long ago."""
    monkeypatch.setattr(record, "LEAST", NUM_RUNS - 1)
    monkeypatch.setattr(index, "SETTLED", -(10**12))
    monkeypatch.setattr(notes, "_SAID", [set()])
    for method in ("full", "lora"):
        for seed in range(NUM_RUNS // 2):
            store_with_predictions(tmp_path / "results", make_record(method, seed=seed), 1.0)
    return tmp_path / "results"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs whose files were read."""
    names: list[str] = []
    original = record._read

    def noted(path: Path) -> tuple[dict[str, Any], str | None]:
        names.append(path.stem)
        return original(path)

    monkeypatch.setattr(record, "_read", noted)
    return names


def test_only_what_has_changed_is_read_again(results: Path, read: list[str]) -> None:
    first = load_records(results)
    assert len(first[0]) == len(read) == NUM_RUNS and first[1] == []
    read.clear()
    written = [path.stat() for path in sorted((results / ".index").iterdir())]
    assert load_records(results) == first and read == []
    assert [path.stat().st_ino for path in sorted((results / ".index").iterdir())] == [one.st_ino for one in written]
    store_with_predictions(results, make_record("lora", seed=7), 1.0)
    predictions_path(results, EDITED).touch()
    assert len(load_records(results)[0]) == NUM_RUNS + 1 and read == [EDITED, "lora_448_7_a"]
    read.clear()
    assert load_records(results)[1] == [] and read == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_after_it_was_kept_is_found_and_never_kept(
    results: Path, damage: Callable[[Path], Path], read: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    load_records(results)
    path = damage(results)
    read.clear()
    with_index, again = load_records(results), load_records(results)
    assert read == [EDITED, EDITED] and with_index == again
    shutil.rmtree(results / ".index")
    assert load_records(results) == with_index
    assert len(with_index[1]) == 1 and repr(str(path)) in with_index[1][0]
    assert main(["tables", "--results", str(results)]) == 1 and str(path) in capsys.readouterr().err


@pytest.mark.parametrize("put", [shutil.copy, shutil.copy2, os.replace], ids=["in place", "cp -p", "rsync"])
@pytest.mark.parametrize("of", [record_of, predictions_path])
def test_an_edit_that_keeps_size_and_time_of_modification_is_found(
    results: Path, of: Callable[[Path, str], Path], put: Callable[[Path, Path], object]
) -> None:
    load_records(results)
    path, other = of(results, EDITED), results / "other"
    before, data = path.stat(), path.read_bytes()
    place = next(i for i in range(len(data) // 2, len(data)) if data[i : i + 1] in b"123")
    other.write_bytes(data[:place] + b"4" + data[place + 1 :])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    put(other, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    records, problems = load_records(results)
    assert len(problems) == 1 and repr(str(path)) in problems[0]
    assert [found["run_id"] for found in records if found["status"]["state"] == "damaged"] == [EDITED]


def test_what_has_just_changed_is_not_kept(results: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As another change may follow within a tick of the file system's clock."""
    monkeypatch.setattr(index, "SETTLED", 10**12)
    for _ in range(2):
        load_records(results)
    assert len(read) == 2 * NUM_RUNS


def test_a_damaged_index_is_made_anew_with_a_note(
    results: Path, read: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = load_records(results)
    paths = sorted((results / ".index").iterdir())
    whole = [path.read_bytes() for path in paths]
    paths[0].write_bytes(whole[0].replace(b'"auc":0.', b'"auc":0.9'))
    assert paths[0].read_bytes() != whole[0]
    read.clear()
    assert load_records(results) == first and 0 < len(read) < NUM_RUNS
    assert capsys.readouterr().err.count(f"note: .index/{paths[0].name} is made anew: its content must have") == 1
    assert [path.read_bytes() for path in paths] == whole


def test_an_index_that_cannot_be_written_costs_a_note(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / ".index").write_bytes(b"")
    assert main(["list", "runs", "--results", str(results), "--format", "csv"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count(",run,done,") == NUM_RUNS
    (note,) = shown.err.splitlines()
    assert note.startswith("note: .index is made anew each time: results must be a folder that can be written")


def test_other_code_reads_everything_again(results: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load_records(results)
    monkeypatch.setattr(index, "CODE", "other")
    load_records(results)
    assert len(read) == 2 * NUM_RUNS


def test_it_is_private_and_forgets_what_is_gone(results: Path) -> None:
    load_records(results)
    held = b"".join(path.read_bytes() for path in (results / ".index").iterdir())
    assert held.count(EDITED.encode()) >= 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in (results / ".index").iterdir()} == {0o600}
    for path in (record_of(results), predictions_path(results, EDITED)):
        path.unlink()
    assert len(load_records(results)[0]) == NUM_RUNS - 1
    assert EDITED.encode() not in b"".join(path.read_bytes() for path in (results / ".index").iterdir())


def test_few_records_need_none(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LEAST", NUM_RUNS + 1)
    load_records(results)
    assert not (results / ".index").exists()


@pytest.fixture
def framed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "LEAST", NUM_RUNS - 1)


@pytest.mark.usefixtures("framed")
def test_a_kept_frame_is_the_one_that_was_made(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for state in ("failed", "diverged"):
        write_record(results, make_record("fpt", seed=9, state=state, message="é\n", tag=state))
    made, _ = load_frame(results)
    with monkeypatch.context() as patch:
        patch.delattr(frame, "runs_frame")
        again, problems = load_frame(results)
    assert problems == []
    pd.testing.assert_frame_equal(again, made)
    for name in made:
        for one, two in zip(made[name], again[name], strict=True):
            assert type(one) is type(two)


@pytest.mark.usefixtures("framed")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_kept_frame_hides_no_damage(results: Path, damage: Callable[[Path], Path]) -> None:
    load_frame(results)
    path = damage(results)
    for _ in range(2):
        found, problems = load_frame(results)
        assert len(problems) == 1 and repr(str(path)) in problems[0]
        assert found.loc[found["run_id"] == EDITED, "state"].to_list() in ([], ["damaged"])


@pytest.mark.usefixtures("framed")
def test_a_frame_goes_with_its_files(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_frame(results)
    store_with_predictions(results, make_record("lora", seed=7), 1.0)
    record_of(results).unlink()
    assert "lora_448_7_a" in set(load_frame(results)[0]["run_id"])
    for place, name in ((index, "CODE"), (kept_frame, "_CODE")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, "other")
            patch.delattr(frame, "runs_frame")
            with pytest.raises(NameError):
                load_frame(results)  # other code makes it anew


@pytest.mark.usefixtures("framed")
def test_a_damaged_frame_is_made_anew(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, _ = load_frame(results)
    kept = results / ".index" / "frame"
    whole = kept.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    for damaged in (whole[:-8] + bytes(8), whole[:200], b""):
        kept.write_bytes(damaged)
        pd.testing.assert_frame_equal(load_frame(results)[0], made)
        assert kept.read_bytes() == whole
        assert "note: .index/frame is made anew: its content must" in capsys.readouterr().err
