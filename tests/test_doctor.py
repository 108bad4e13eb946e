"""bench.py doctor: what it says is so, what is wrong is named with what mends it, and nothing private is told."""

import getpass
import json
import platform
import shutil
import sys
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

import bench
from benchmarks.environment import ROOT
from benchmarks.suite import setup_check
from benchmarks.suite.setup_check import check_packages

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**40))
    return tmp_path


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = bench.main(["doctor", "--format", "json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def test_facts_are_those_of_the_machine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cache/features/one").mkdir(parents=True)
    (folder / "cache/features/one/data.bin").write_bytes(bytes(2**20 * 256))
    (folder / "results/runs").mkdir(parents=True)
    for name in "ab":
        (folder / f"results/runs/{name}.json").write_text("{}")
    status, found = doctor(capsys, "--cache", "cache")
    facts = found["facts"]
    assert (status, found["problems"]) == (0, [])
    assert facts["versions"]["python"] == platform.python_version()
    assert [facts["versions"][name] for name in ("timm", "peft")] == [version("timm"), version("peft")]
    assert facts["caches"]["features"] == "0.25 GiB in 1 files"
    assert facts["results"]["stored runs"] == 2
    assert facts["disk"]["free for cache"] == "1,024.0 GiB"
    assert facts["CPU"]["threads of torch"] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("wanted", "here", "what"),
    [
        ("peft>=0.21", "0.18.1", "peft must be >=0.21, got 0.18.1"),
        ("peft>=0.21", None, "peft must be >=0.21, got none"),
        ("numpy", None, "numpy must be installed, got none"),
        ("torch>=2.11", "2.13.0.dev1+cpu", None),
    ],
)
def test_a_package_that_is_missing_or_too_old_is_named(wanted: str, here: str | None, what: str | None) -> None:
    versions, problems = check_packages([Requirement(wanted)], {Requirement(wanted).name: here}.get)
    assert list(versions.values()) == [here or "not installed"]
    assert [problem.what for problem in problems] == ([what] if what else [])
    assert all(problem.mend == "make environment" for problem in problems)


@pytest.mark.parametrize(
    ("driver", "cuda", "visible", "what", "mend"),
    [
        ("570.1", None, None, "got its CPU build", "pip install --force-reinstall torch"),
        ("450.1", "13.0", None, "must know CUDA 13.0 of torch, got 450.1", "a newer driver"),
        ("570.1", "12.8", "", "it hides them", "unset CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_wrong(
    driver: str,
    cuda: str | None,
    visible: str | None,
    what: str,
    mend: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(setup_check, "driver_version", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    status, found = doctor(capsys)
    (problem,) = found["problems"]
    assert status == 1 and what in problem["what"] and mend in problem["mend"]


def test_a_full_disk_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40, 2**30))
    status = bench.main(["doctor"])
    out, err = capsys.readouterr()
    assert status == 1 and err == "3 wrong\n"
    assert "cache must have 5 GiB free, got 1.0 GiB" in out and "python bench.py clean caches --unused" in out


def test_nothing_private_is_told_unless_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "secrethost")
    monkeypatch.setattr(getpass, "getuser", lambda: "secretuser")
    monkeypatch.setenv("LD_PRELOAD", "/opt/secretuser/secretplace/libmalloc.so")
    arguments = ["doctor", "--results", str(folder / "secretplace/results"), "--cache", "/srv/secretuser/cache"]
    bench.main(arguments)
    told = capsys.readouterr().out
    assert "secret" not in told.replace("./secretplace/results", "") and str(folder) not in told
    assert str(ROOT) not in told and sys.prefix not in told
    bench.main([*arguments, "--paths"])
    assert "/srv/secretuser/cache" in capsys.readouterr().out
