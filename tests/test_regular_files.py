"""A FIFO, a socket or a device in the place of any file is one clear line, and nothing waits for it."""

import functools
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import raw_trees
from bench_process import TINY, options_of
from fixed_records import make_record
from prepared_trees import refused
from tiny_images import all_of, make_images

import bench
from benchmarks.analysis.evidence import load_evidence
from benchmarks.check.survey import survey
from benchmarks.data.dataset import open_dataset
from benchmarks.data.image_store import open_image_stores
from benchmarks.errors import UserError
from benchmarks.features.cache_files import CacheFiles
from benchmarks.memory.measured import read_measured
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import stored_predictions
from benchmarks.model.weights import resolve_weights
from benchmarks.plugins import load_plugins
from benchmarks.records.frame import load_frame
from benchmarks.records.record import load_records, write_record
from benchmarks.storage.files import irregular, read_regular, why_no_file
from benchmarks.suite.slurm_queue import queued_jobs


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """What waits for a FIFO fails, in place of waiting for ever."""

    def fail(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS: dict[str, Callable[[Path], None]] = {"a FIFO": fifo, "a socket": listening, "a device": device}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["3.png", "scan"])
def test_among_images_run_check_and_prepare_name_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str
) -> None:
    root = make_images(tmp_path / "images")
    (root / "val/dark" / name).unlink(missing_ok=True)
    KINDS[kind](root / "val/dark" / name)
    with pytest.raises(UserError, match=rf"class folder must hold only regular files, got {kind} at '.*/{name}'; rem"):
        open_dataset(str(root), tmp_path, tmp_path / "cache")
    found = {file.path: file.error for file in survey(root, None).files if file.facts is None}
    assert found == {f"val/dark/{name}": f"is no regular file but {kind}"}
    KINDS[kind](root / "val" / name)  # in no class folder
    assert survey(root, None).strays == []
    raw_trees.chncxr(tmp_path / "raw")
    KINDS[kind](tmp_path / "raw" / name)
    refused(tmp_path, capsys, "chncxr", f"raw folder must hold only regular files, got {kind} at ", "remove it")


def test_as_an_option_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pipe.yaml"
    fifo(path)
    with pytest.raises(UserError, match=r"weights must be .* or a file, got '.*pipe.yaml'; that is a FIFO"):
        resolve_weights(str(path), "vit_tiny_patch16_224", tmp_path)
    with pytest.raises(UserError, match=r"suite must be a file, got '.*pipe.yaml'; that is a FIFO"):
        options_of("--suite", str(path))
    with pytest.raises(UserError, match=r"plugin pipe.yaml: it must be a regular file, got a FIFO at"):
        load_plugins([path])
    raw_trees.chncxr(tmp_path / "raw")
    options = ("--split-file", str(path))
    refused(tmp_path, capsys, "chncxr", "split file must be a csv file, got", "that is a FIFO", options=options)
    arguments = ["prepare", "chncxr", "--data-root", str(tmp_path), "--raw", str(path)]
    assert bench.main(arguments) == 2
    assert "raw must be a folder and no file (" in capsys.readouterr().err
    assert bench.main(["tables", "--results", str(path)]) == 2
    assert "results must be a folder and no file (" in capsys.readouterr().err


def test_among_results_it_is_a_problem_that_is_named(tmp_path: Path) -> None:
    record = make_record("lora")
    write_record(tmp_path, record)
    fifo(tmp_path / "runs" / "b.json")
    _, problems = load_records(tmp_path)
    assert len(problems) == 1 and "b.json' (it must be a regular file, got a FIFO" in problems[0]
    fifo(tmp_path / "runs" / f"{record['run_id']}.predictions.csv")
    evidence, problems = load_evidence(tmp_path, load_frame(tmp_path)[0])
    assert evidence == {} and "(it must be a regular file, got a FIFO" in problems[0]
    fifo(tmp_path / "measured" / "gpu" / "a.json")
    with pytest.raises(UserError, match=r"record must be a measured point, got .* \(it must be a regular file"):
        read_measured(tmp_path)
    fifo(tmp_path / "jobs" / "slurm-1" / "jobs.json")
    with pytest.raises(UserError, match=r"jobs must be readable, got .* \(it must be a regular file"):
        queued_jobs(tmp_path)


def test_in_a_dataset_the_list_of_classes_is_named(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    fifo(root / "classes.txt")
    with pytest.raises(UserError, match=r"classes.txt must be a text file in UTF-8, got .* \(it must be a regular"):
        open_dataset(str(root), tmp_path, tmp_path / "cache")


def test_in_a_cache_it_is_made_anew(tmp_path: Path) -> None:
    root, cache = make_images(tmp_path / "images"), tmp_path / "cache"
    open_now = functools.partial(open_dataset, str(root), tmp_path, cache)
    dataset = open_now()
    stores = all_of(open_image_stores(dataset, "val", [32], cache)[32])
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {"hashes", "normalization", "images", "depths"}
    for path in files:
        fifo(path)
    assert open_now() == dataset
    assert (all_of(open_image_stores(dataset, "val", [32], cache)[32]) == stores).all()
    assert all(irregular(path) is None for path in files)
    point = MemoryPoint("linear", 32, 4, "vit_tiny_patch16_224")
    from benchmarks.memory.prediction_cache import _path

    fifo(_path(point, cache))
    assert stored_predictions([point], cache) == {}
    fifo(cache / "features" / "a" / "cache.json")
    shutil.rmtree(cache / "features")


def test_a_feature_cache_of_which_a_file_is_none_is_damaged(tmp_path: Path) -> None:
    from benchmarks.features.cache_files import DESCRIPTION

    fifo(tmp_path / "a" / DESCRIPTION)
    with pytest.raises(UserError, match=r"feature cache a in .* is damaged .*it must be a regular file"):
        CacheFiles(tmp_path / "a")


def test_what_is_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    assert read_regular(tmp_path / "link") == b"content"
    for path in (tmp_path / "gone", tmp_path):
        assert irregular(path) is None
    assert (why_no_file(tmp_path), why_no_file(tmp_path / "gone")) == ("that is a folder", "there is no such file")
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "gone")


@pytest.mark.parametrize("option", ["cache", "results", "data-root"])
@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_a_file_in_the_place_of_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, below: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    (tmp_path / "taken").touch()
    commands: list[list[Any]] = [["--methods", "linear", *TINY], ["list", "caches"]]
    commands += [["check", "images"]] if option != "results" else [["tables"], ["report"]]
    for command in commands:
        assert bench.main([*command, f"--{option}", f"taken{below}"]) == 2
        err = capsys.readouterr().err
        assert f"{option.replace('-', '_')} must be a folder and no file (" in err
        assert err.count("\n") == 1 and "Errno" not in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("list runs --results typo", "results must be a folder, got 'typo'; there is no such folder"),
        ("list caches --cache typo", "cache must be a folder, got 'typo'; there is no such folder"),
        ("list caches --results typo", "results must be a folder, got 'typo'; there is no such folder"),
        ("list datasets --data-root typo", "data_root must be a folder, got 'typo'; there is no such folder"),
        ("clean caches --unused --results typo", "results must be a folder, got 'typo'; there is no such folder"),
        ("clean caches --cache typo", "cache must be a folder, got 'typo'; there is no such folder"),
        ("clean caches x", "cache must be one of those there are, and there are none, got 'x'"),
    ],
)
def test_a_folder_that_is_read_and_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench.main(command.split()) == 2
    assert capsys.readouterr().err == f"bench.py: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_clean_names_the_caches_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0123-ab", "4567-cd"):
        (tmp_path / ".cache/features" / name).mkdir(parents=True)
    assert bench.main(["clean", "caches", "0123-a"]) == 2
    assert "cache must be one of 0123-ab, 4567-cd, got '0123-a'; did you mean 0123-ab?" in capsys.readouterr().err
    assert bench.main(["list", "runs"]) == 0
