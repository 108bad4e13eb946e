"""A cache that cannot be written costs a note, once, and nothing else: tables, page and runs come out the same."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from bench_process import TINY
from inside import finish_inside
from report_folder import make_folder
from tiny_images import make_images

from benchmarks.data.dataset import open_dataset
from benchmarks.features.cache import FeatureRequest, open_feature_cache
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import predict_point
from benchmarks.storage import notes
from benchmarks.storage.files import read_disposable, write_disposable


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_SAID", [set()])


def block(folder: Path) -> Path:
    """Lets a file stand where a cache's folder is to be: nobody can write there, root neither."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"")
    return folder


@pytest.mark.parametrize("command", ["tables", "report"])
def test_statistics_that_cannot_be_kept_cost_a_note(tmp_path: Path, command: str) -> None:
    make_folder(tmp_path / "kept" / "results")
    make_folder(tmp_path / "blocked" / "results")
    block(tmp_path / "blocked" / "results" / ".statistics")
    kept, blocked = (finish_inside(tmp_path / name, command) for name in ("kept", "blocked"))
    assert blocked.returncode == kept.returncode == 0 and blocked.stdout == kept.stdout
    notes = [line for line in blocked.stderr.splitlines() if line not in kept.stderr]
    (note,) = notes
    assert note.startswith("note: .statistics is made anew each time: results must be a folder that can be written")
    for path in (tmp_path / "kept" / "results" / "tables").glob("*"):
        assert (tmp_path / "blocked" / "results" / "tables" / path.name).read_bytes() == path.read_bytes()


def test_a_dataset_opens_without_room_for_its_hashes_and_normalisation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_images(tmp_path / "images")
    kept = open_dataset(str(root), tmp_path, tmp_path / "cache")
    capsys.readouterr()
    for name in ("hashes", "depths", "normalization"):
        block(tmp_path / "blocked" / name)
    for _ in range(2):
        assert open_dataset(str(root), tmp_path, tmp_path / "blocked") == kept
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert [note.partition(" is made anew each time: cache must be")[0] for note in notes] == [
        "note: hashes",
        "note: depths",
        "note: normalization",
    ]


def test_memory_is_predicted_without_room_for_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point = MemoryPoint("linear", 32, 4, "vit_tiny_patch16_224")
    block(tmp_path / "cache" / "predictions")
    assert predict_point(point, tmp_path / "cache") == predict_point(point, tmp_path / "other")
    assert "note: predictions is made anew each time" in capsys.readouterr().err


def test_a_run_goes_through_without_them(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    for name in ("hashes", "normalization", "depths", "predictions"):
        block(tmp_path / ".cache" / name)
    ended = finish_inside(tmp_path, "--methods", "linear", *TINY, "--epochs", "1")
    assert ended.returncode == 0 and "runs: 1 ok" in ended.stderr
    assert len(list((tmp_path / "results/runs").glob("*.json"))) == 1


def test_features_that_are_complete_need_no_lock(tmp_path: Path) -> None:
    request = FeatureRequest({}, None, {"feature": ((4,), "float32")}, [range(2), range(2, 4)])

    def compute(batches: Sequence[range]) -> Iterator[dict[str, torch.Tensor]]:
        yield from ({"feature": torch.ones(len(batch), 4)} for batch in batches)

    assert not open_feature_cache(tmp_path, request, compute, pytest.fail).reused
    shutil.rmtree(tmp_path / ".leases")
    block(tmp_path / ".leases")
    assert open_feature_cache(tmp_path, request, compute, pytest.fail).reused


def test_the_note_is_said_once_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block(tmp_path / "a")
    for _ in range(3):
        write_disposable(tmp_path / "a" / "b", b"")
    assert capsys.readouterr().err.count("note: a is made anew each time: cache must be a folder that can be") == 1
    write_disposable(tmp_path / "c" / "d", b"content")
    assert read_disposable(tmp_path / "c" / "d") == b"content"


def test_a_kept_file_is_read_only_where_and_as_it_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = tmp_path / "kept" / "a", tmp_path / "kept" / "b"
    assert read_disposable(path) is None
    write_disposable(path, b"content")
    write_disposable(other, b"other content")
    assert capsys.readouterr().err == ""
    whole = path.read_bytes()
    edited = whole.replace(b"content", b"Content")
    for damaged in (other.read_bytes(), edited, whole + b" ", b"content", b"", bytes(99)):
        path.write_bytes(damaged)
        assert read_disposable(path) is None
        assert capsys.readouterr().err == (
            "note: kept/a is made anew: its content must have the digest in its first line, got another\n"
        )
    path.write_bytes(whole)
    assert read_disposable(path) == b"content"
