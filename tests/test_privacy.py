"""What is stored names no place, machine or person: whatever is written is searched for their names."""

import csv
import getpass
import gzip
import json
import platform
import re
import shutil
import zlib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_process import TINY, records
from hypothesis import example, given
from hypothesis import strategies as st
from inside import finish_inside
from report_folder import make_folder
from tiny_images import make_images

import bench
from benchmarks.privacy import HERE, hide_places, host_id, id_of_host
from benchmarks.records.private import anonymous, private
from benchmarks.records.record import load_records
from benchmarks.suite.crash import report_crash

HOST, USER, HOME = "radiology-node7", "muellerzweig", "home-of-muellerzweig"
PATIENT = "patient-Sorgenfrei"
SECRETS = (HOST, USER, "Sorgenfrei-Klinik")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home folder on a machine, both with names that stand nowhere else."""
    home = tmp_path / HOME
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    return home


def found_in(folder: Path, words: tuple[str, ...], skip: tuple[str, ...] = ()) -> list[str]:
    """What files of a folder hold of some words, in their names too; what is compressed in them as well."""
    hits = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] in skip:
            continue
        texts = [name.encode(), *(_contents(path) if path.is_file() else ())]
        hits += [f"{word} in {name}" for word in words if any(word.encode() in text for text in texts)]
    return hits


def _contents(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    for part in re.findall(rb'<script type="text/plain" id="part-[^"]*">([^<]*)</script>', data):
        yield gzip.decompress(b64decode(part))
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL):
        try:
            yield zlib.decompress(stream)
        except zlib.error:
            continue


@pytest.mark.slow
def test_a_run_and_all_that_is_made_of_it_name_no_place(home: Path) -> None:
    """Under a home, with data, weights and a plugin elsewhere in it; the log and the locks are what may name them."""
    project = home / "project"
    make_images(project / "Sorgenfrei-Klinik" / "images")
    arguments = ["--datasets", "Sorgenfrei-Klinik/images", *TINY[2:], "--methods", "linear", "--epochs", "1"]
    ended = finish_inside(project, *arguments, "--track", "tensorboard")
    assert ended.returncode == 0, ended.stderr
    (record,) = records(project / "results").values()
    assert record["environment"]["host_id"] == host_id() and "host" not in record["environment"]
    assert finish_inside(project, "report").returncode == 0
    for extra in (["report", "--anonymous", "--output", "results/anonymous.html"], ["tables"], ["plots"]):
        assert finish_inside(project, *extra).returncode == 0
    assert found_in(project / "results", SECRETS, skip=("logs", "jobs")) == []
    assert found_in(project / "results", ("images",))  # what is searched is read
    assert list((project / "results/tensorboard").glob(f"*/events*{host_id()}*"))
    assert found_in(project / "results", (host_id(),), skip=("runs", "tensorboard", "report.html")) == []
    named = finish_inside(project, *arguments, "--record-host", "--overwrite")
    assert named.returncode == 0, named.stderr
    (again,) = records(project / "results").values()
    assert again["run_id"] == record["run_id"]
    assert (again["environment"]["host"], again["environment"]["host_id"]) == (HOST, host_id())
    assert finish_inside(project, "report").returncode == 0
    assert finish_inside(project, "report", "--anonymous", "--output", "results/anonymous.html").returncode == 0
    assert found_in(project / "results", (HOST,), skip=("logs",)) == [
        *(f"{HOST} in {name}" for name in ("report.html", f"runs/{record['run_id']}.json"))
    ]


def test_what_fails_says_so_without_places_on_disk_and_with_them_on_the_terminal(home: Path) -> None:
    make_images(home / "data/images")
    image = home / "data/images/test/dark/0.png"
    finish_inside(home, "--datasets", "images", *TINY[2:], "--methods", "linear", "--epochs", "1", "--dry-run")
    image.write_bytes(image.read_bytes()[:60])
    ended = finish_inside(home, "--datasets", "images", *TINY[2:], "--methods", "linear", "--epochs", "1")
    assert ended.returncode == 1
    assert str(image) in ended.stderr.replace("\n", "")
    (record,) = records(home / "results").values()
    assert "'images/test/dark/0.png'" in record["status"]["message"]
    assert found_in(home / "results", SECRETS, skip=("logs",)) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("got '/mnt/data/eyes/test/a b/0.png' (broken)", "got 'eyes/test/a b/0.png' (broken)"),
        ("no room in /mnt/data", "no room in ."),
        ("features in '/srv/cache/features/ab' are damaged", "features in '<cache>/features/ab' are damaged"),
        ("/srv/cached/x.png", ".../x.png"),
        ("plugin '/opt/my plugins/new.py' fails", "plugin 'new.py' fails"),
        ("[Errno 2] '/mnt/elsewhere/Dr Sorgenfrei/a.png'", "[Errno 2] '.../a.png'"),
        ("in /mnt/elsewhere/a.png: 3 images/s, and/or 1/2", "in .../a.png: 3 images/s, and/or 1/2"),
        (
            "https://hub/a/b.bin and /proc/meminfo and /dev/shm/x",
            "https://hub/a/b.bin and /proc/meminfo and /dev/shm/x",
        ),
        ("sqlite:////mnt/data/m.db file:///mnt/else/x.db", "sqlite:///m.db .../x.db"),
        (f"{USER}@{HOST}: gone", "<user>@<host {id}>: gone"),
        (f"{HOST}.hospital.org and {HOST}x", "<host {id}>.hospital.org and " + f"{HOST}x"),
    ],
)
def test_messages_by_hand(home: Path, text: str, shown: str) -> None:
    folders = {Path("/mnt/data"): HERE, Path("/srv/cache"): "<cache>", Path("/opt/my plugins/new.py"): "new.py"}
    found = hide_places(text, folders)
    assert found == shown.replace("{id}", host_id())
    assert hide_places(found, folders) == found
    assert hide_places(f"in '{home}/x/y'") == "in '~/x/y'"


@example("'/'/'")
@example("'/a'/b'")
@given(st.text("/ab '\".~<>:()\n", max_size=30))
def test_what_was_hidden_stays_as_it_is(text: str) -> None:
    folders = {Path("/a"): HERE, Path("/b/a"): "<cache>"}
    once = hide_places(text, folders)
    assert hide_places(once, folders) == once


def test_machines_are_told_apart_and_their_names_not_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    ids = []
    for name in ("node1", "node2", "node1"):
        monkeypatch.setattr(platform, "node", lambda name=name: name)
        ids.append(host_id())
    assert ids[0] == ids[2] != ids[1] and all(re.fullmatch("[0-9a-f]{8}", found) for found in ids)
    assert id_of_host("node1") == ids[0] and id_of_host("node2") != id_of_host("node3")
    if Path("/etc/machine-id").exists():
        guesses = {hashlib.sha256(text).hexdigest()[:8] for text in (b"node1", b"host node1")}
        assert ids[0] not in guesses


OLD = {
    "schema": 1,
    "run_id": "images-32-linear-s0-0123456789",
    "status": {"state": "failed", "message": f"no GPU at '/home/{USER}/x/a.pt' ({HOST})", "phase": None},
    "run": {
        "config": {"method": "linear", "dataset": "images", "resolution": 32, "seed": 0, "batch_size": 4, "epochs": 1}
        | {"lr": 0.1, "dataset_digest": "0" * 64},
        "code": {"commit": "beef" * 10, "dirty": False, "digest": "1" * 64, "version": "0.1"},
        "weights": {"source": "file", "requested": f"/home/{USER}/w/vit.pt", "path": f"/home/{USER}/w/vit.pt"}
        | {"sha256": "ab" * 32, "note": None},
        "dataset": {"name": "images", "title": "images", "folder": f"home/{USER}/images"},
        "notes": [f"checkpoint /home/{USER}/results/c.pt is left aside"],
    },
    "measurements": {},
    "environment": {"device": "NVIDIA H100", "host": HOST, "gpu_uuid": "GPU-1", "cpu": "EPYC", "os": "Linux-klinik"},
}


def test_a_record_of_before_is_shown_without_places() -> None:
    before = json.dumps(OLD)
    shown = private(OLD)
    assert json.dumps(OLD) == before and private(shown) == shown
    assert not any(word in json.dumps(shown) for word in (HOST, USER))
    assert shown["run"]["weights"] | {"note": None} == {
        **{"source": "file", "requested": "vit.pt", "file": "vit.pt", "sha256": "ab" * 32, "note": None}
    }
    assert shown["environment"] | {"host_id": ""} == {
        **{"device": "NVIDIA H100", "gpu_uuid": "GPU-1", "cpu": "EPYC", "os": "Linux-klinik", "host_id": ""}
    }
    assert shown["status"]["message"] == f"no GPU at '.../a.pt' (<host {shown['environment']['host_id']}>)"


def test_an_anonymous_record_keeps_what_was_measured_on_and_no_machine() -> None:
    for record in (OLD, private(OLD), OLD | {"environment": OLD["environment"] | {"host_id": "12345678"}}):  # type: ignore[operator]
        shown = anonymous(record)
        assert shown["environment"] == {"device": "NVIDIA H100"}
        assert shown["run"]["code"] == {"digest": "1" * 64, "version": "0.1"}
        assert shown["status"]["message"] == "no GPU at '.../a.pt' (<host>)"
        assert not any(word in json.dumps(shown) for word in (HOST, USER, "beef", "GPU-1", "EPYC", "klinik"))


def test_a_page_of_old_records_hides_what_they_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "klinik-results"
    make_folder(results)
    for record in load_records(results)[0]:
        record["environment"].pop("host_id", None)  # there was none
        record["environment"] |= {"host": HOST, "cpu": "XEON 7"}
        record["run"]["weights"] = (record["run"].get("weights") or {}) | {"path": f"/home/{USER}/w.safetensors"}
        (results / "runs" / f"{record['run_id']}.json").write_text(json.dumps(record))
    (results / "runs/damaged.json").write_text("{")
    shutil.rmtree(results / "measured")
    (results / "runs" / f"{OLD['run_id']}.json").write_text(json.dumps(OLD))
    for flags in ([], ["--anonymous"]):
        page = tmp_path / f"page{len(flags)}" / "deep" / "page.html"
        assert bench.main(["report", "--results", str(results), "--output", str(page), *flags]) == 1
        assert str(results / "runs/damaged.json") in capsys.readouterr().err
        more = ("XEON 7", "beef", "klinik", "GPU-1") if flags else ()
        assert found_in(page.parent, (HOST, USER, str(tmp_path), *more)) == []
        assert found_in(page.parent, ("NVIDIA H100", "<results>/runs/damaged.json")) != []
    bench.main(["tables", "--results", str(results)])
    bench.main(["plots", "--results", str(results)])
    for part in ("tables", "plots"):
        assert list((results / part).iterdir()) and found_in(results / part, (HOST, USER)) == []


def test_a_crash_names_no_place_as_it_is_for_others_to_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError(f"{home}/project/x on {HOST}")
    except KeyError as error:
        assert report_crash(error, home / "results") == 70
    (file,) = (home / "results/logs").iterdir()
    assert "test_privacy.py" in file.read_text() and "~/project/x on <host" in file.read_text()
    assert found_in(home / "results", (HOST, USER, str(home))) == []
    assert str(home) in capsys.readouterr().err  # where it is


def test_a_manifest_names_the_raw_folder_and_not_where_it_lies(home: Path) -> None:
    from raw_trees import chncxr

    chncxr(home / "raw")
    image = sorted((home / "raw").rglob("*_1.png"))[0]
    image.write_bytes(image.read_bytes()[:40])
    arguments = ["prepare", "chncxr", "--raw", str(home / "raw"), "--data-root", str(home / "data")]
    ended = finish_inside(home, *arguments, "--allow-incomplete", "--skip-unreadable")
    assert ended.returncode == 0, ended.stderr
    about = json.loads((home / "data/chncxr/manifest.json").read_text())
    assert about["raw"] == "raw" and any(item["reason"].startswith("unreadable") for item in about["excluded"])
    assert found_in(home / "data/chncxr", SECRETS) == []


def predictions(results: Path) -> list[dict[str, Any]]:
    (path,) = (results / "runs").glob("*.predictions.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
