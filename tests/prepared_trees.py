"""Runs bench.py prepare in this process, and reads what it made without the code under test."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import bench


def prepare(name: str, raw: Path, data: Path, *options: str) -> int:
    """The command; returns its exit status."""
    return bench.main(["prepare", name, "--raw", str(raw), "--data-root", str(data), *options])


def refused(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, *expected: str, options: tuple[str, ...] = ()
) -> None:
    """Prepares `folder/raw` and expects one line with all of some texts, and no dataset."""
    (folder / "raw").mkdir(exist_ok=True)
    assert prepare(name, folder / "raw", folder / "data", *options) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bench.py: ")
    for words in expected:
        assert words in line
    assert not (folder / "data" / name).exists()


def rows(root: Path) -> list[dict[str, str]]:
    """The manifest's table."""
    with (root / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def about(root: Path) -> dict[str, Any]:
    """The manifest's other half."""
    return dict(json.loads((root / "manifest.json").read_text(errors="surrogateescape")))


def contents(root: Path) -> dict[str, str]:
    """Digest of every visible file but the one with the time in it."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", ".journal.jsonl")
    }
