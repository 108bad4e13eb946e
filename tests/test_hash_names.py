"""Who may read results, and predictions that name no image: files' modes, keyed names, and what is still compared."""

import csv
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bench_process import TINY, records
from inside import finish_inside
from tiny_images import make_images

from benchmarks.analysis.evidence import load_evidence, read_evidence
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import summary
from benchmarks.errors import MachineError, UserError
from benchmarks.prepare.stage import Stage
from benchmarks.records.frame import load_frame
from benchmarks.records.hashed_names import hash_names
from benchmarks.storage.files import make_results, write_atomic
from benchmarks.storage.name_key import KEY_FILE, hashed, key_id, make_key, read_key

RUN = [*TINY, "--epochs", "1", "--methods"]
KEY = bytes(range(32))


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


@pytest.fixture(params=[0o022, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_new_results_are_for_their_owner_alone(tmp_path: Path, umask: int) -> None:
    tmp_path.chmod(0o777)
    make_results(tmp_path / "new" / "results")
    for name in ("runs/a.json", "trials/runs/b.json"):
        write_atomic(tmp_path / "new/results" / name, b"x", private=True)
    write_atomic(tmp_path / "new/results/tables/t.md", b"x")
    folders = [tmp_path / "new/results", *(path for path in (tmp_path / "new/results").rglob("*") if path.is_dir())]
    assert {mode(path) for path in folders} == {"0o700"} and len(folders) == 5
    assert mode(tmp_path / "new") == oct(0o777 & ~umask)
    assert {mode(path) for path in (tmp_path / "new/results").rglob("*.json")} == {"0o600"}
    assert mode(tmp_path / "new/results/tables/t.md") == oct(0o666 & ~umask)


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o600), (0o750, 0o600), (0o2775, 0o660)])
def test_results_that_are_there_stay_as_open_as_they_are(tmp_path: Path, umask: int, folder: int, file: int) -> None:
    """A group that may write there reads predictions too, as far as the umask lets it."""
    results = tmp_path / "results"
    results.mkdir()
    results.chmod(folder)
    make_results(results)
    path = write_atomic(results / "runs" / "a.predictions.csv", b"x", private=True)
    assert mode(results) == oct(folder)
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o777 == folder & 0o777 & ~umask
    group_writes = path.parent.stat().st_mode & stat.S_IWGRP
    assert mode(path) == oct((file if group_writes else 0o600) & ~umask)


def test_a_results_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"results must be a folder that can be written, got '.*/file/results'"):
        make_results(tmp_path / "file" / "results")


@pytest.mark.slow
def test_names_are_hashed_alike_in_all_runs_and_found_nowhere(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    for path in (root / "test/bright/0.png", root / "test/dark/0.png"):  # with four of a class nothing is compared
        path.with_name("4.png").write_bytes(path.read_bytes())
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_name(f"Sorgenfrei-{path.name}"))
    ended = finish_inside(tmp_path, *RUN, "linear", "full", "--hash-names")
    assert ended.returncode == 0, ended.stderr
    key_file = root / KEY_FILE
    assert mode(key_file) == "0o600" and mode(tmp_path / "results") == "0o700"
    stored = list((tmp_path / "results").rglob("*"))
    texts = [path.read_bytes() for path in stored if path.is_file()]
    assert not any(word in text for text in texts for word in (b"Sorgenfrei", key_file.read_bytes().strip()))
    assert {mode(path) for path in (tmp_path / "results/runs").iterdir()} == {"0o600"}
    by_method = records(tmp_path / "results")
    assert {record["run"]["names_key"] for record in by_method.values()} == {key_id(read_key(root))}
    plain = finish_inside(tmp_path, *RUN, "linear", "full", "--results", "plain")
    assert plain.returncode == 0, plain.stderr
    assert {name: record["run_id"] for name, record in records(tmp_path / "plain").items()} == {
        name: record["run_id"] for name, record in by_method.items()
    }
    for record in by_method.values():
        rows, named = (predictions(tmp_path / folder, record["run_id"]) for folder in ("results", "plain"))
        for row in named:
            row["path"] = hashed(row["path"], "image", read_key(root))
        assert sorted(map(str, rows)) == sorted(map(str, named))
    evidence, _ = load_evidence(tmp_path / "results", load_frame(tmp_path / "results")[0])
    assert len({found.images for found in evidence.values()}) == 1 and len(evidence) == 2
    again = finish_inside(tmp_path, *RUN, "linear", "--hash-names", "--results", "plain")
    assert "note: predictions of 1 stored runs name their images: --overwrite makes them again" in again.stderr
    assert again.returncode == 0
    mixed_is_said_and_never_compared(tmp_path)


def mixed_is_said_and_never_compared(folder: Path) -> None:
    """Of `plain` one of the two runs is done again with hashed names."""
    assert compared(folder / "plain") == {"full": False, "linear": True}
    ended = finish_inside(folder, *RUN, "linear", "--hash-names", "--results", "plain", "--overwrite")
    assert ended.returncode == 0, ended.stderr
    assert compared(folder / "plain") == {"full": False, "linear": False}
    assert compared(folder / "results") == {"full": False, "linear": True}
    text = (folder / "plain/tables/results.md").read_text()
    assert "Images in predictions are named: Full fine-tuning; hashed with key" in text
    assert "Nothing tells that these were tested on the same images" in text
    assert finish_inside(folder, "tables", "--results", "results").returncode == 0
    assert "Images in predictions are" not in (folder / "results/tables/results.md").read_text()


def compared(results: Path) -> dict[str, bool]:
    """Which methods were compared with full fine-tuning."""
    frame, _ = load_frame(results)
    table = add_significance(summary(frame), load_evidence(results, frame)[0])
    known = table.set_index("method")[["vs_full_p", "auc_low"]].notna()
    assert known["auc_low"].all()  # each has an interval of its own
    return {str(method): bool(row["vs_full_p"]) for method, row in known.iterrows()}


def predictions(results: Path, run_id: str) -> list[dict[str, Any]]:
    with (results / "runs" / f"{run_id}.predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_groups_are_hashed_and_stay_groups() -> None:
    frame = pd.DataFrame(
        {
            "split": ["val", *["test"] * 6],
            "path": ["val/a/0.png", *(f"test/{'ab'[i % 2]}/{i}.png" for i in range(6))],
            "label": ["a", *"ababab"],
            "group": ["", "p1", "p1", "p2", "p2", "", ""],
            "prob_a": [0.5, 0.9, 0.2, 0.4, 0.6, 0.7, 0.1],
        }
    ).assign(prob_b=lambda rows: 1 - rows["prob_a"])
    made = hash_names(frame, KEY)
    assert not made.to_csv().count("p1") and not made.to_csv().count("png")
    groups = dict(zip(made["path"], made["group"], strict=True))
    for path, group in zip(frame["path"], frame["group"], strict=True):
        assert groups[hashed(path, "image", KEY)] == (hashed(group, "group", KEY) if group else "")
    assert hashed("p1", "image", KEY) != hashed("p1", "group", KEY) != hashed("p1", "group", KEY[::-1])
    test = made[made["split"] == "test"]["path"].to_list()
    assert test == sorted(test) and list(made["split"]) == ["val", *["test"] * 6]  # the order of names is gone
    first, second = (read_evidence(rows.to_csv(index=False).encode()) for rows in (frame, made))
    assert (first.auc, first.unit, len(first.influence)) == (second.auc, second.unit, len(second.influence))
    assert sorted(first.influence) == pytest.approx(sorted(second.influence)) and first.images != second.images
    other = read_evidence(hash_names(frame.iloc[::-1], KEY).to_csv(index=False).encode())
    assert other.images == second.images and (other.influence == second.influence).all()
    assert read_evidence(hash_names(frame, KEY[::-1]).to_csv(index=False).encode()).images != second.images


def test_a_failure_names_the_image_by_its_hash(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    image = root / "test/dark/0.png"
    (root / "test/dark/0.png").write_bytes(image.read_bytes()[:60])
    ended = finish_inside(tmp_path, *RUN, "linear", "--hash-names")
    assert ended.returncode == 1
    (record,) = records(tmp_path / "results").values()
    name = hashed("test/dark/0.png", "image", read_key(root))
    assert f"'images/{name}'" in record["status"]["message"] and "0.png" not in record["status"]["message"]


def test_a_key_is_made_once_and_what_is_wrong_with_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"key for --hash-names must be readable, got '.*\.names-key' \(No such file"):
        read_key(tmp_path)
    make_key(tmp_path)
    key = read_key(tmp_path)
    make_key(tmp_path)
    assert read_key(tmp_path) == key and len(key) == 32 and [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    (tmp_path / KEY_FILE).write_text("short\n")
    with pytest.raises(UserError, match=r"key for --hash-names must be 64 hex digits, got others in '.*\.names-key'"):
        read_key(tmp_path)
    with pytest.raises(MachineError, match=r"key for --hash-names must be kept in the dataset's folder, got '.*/none/"):
        make_key(tmp_path / "none")


def test_a_dataset_that_is_prepared_again_keeps_its_key(tmp_path: Path) -> None:
    target = tmp_path / "data" / "eyes"
    target.mkdir(parents=True)
    make_key(target)
    key = read_key(target)
    with Stage(target, {}) as stage:
        stage.tree.mkdir(parents=True)
        stage.publish()
    assert read_key(target) == key and mode(target / KEY_FILE) == "0o600"
