"""Examples for awkward.py: caches and records that somebody has edited, commands that ask for too much."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from awkward import MODEL, RUN, Bench, example, last, noted
from PIL import Image
from tiny_images import make_images

# ---- caches ----


def again(bench: Bench, pattern: str, edit: Callable[[Path], None]) -> str:
    """Whether a run comes out as before once a cached file was edited, and what it said of it."""
    make_images(bench.place / "images")
    bench("run", *RUN, "images")
    before = _came_out(bench)
    (path,) = (bench.place / "cache").glob(pattern)
    edit(path)
    shutil.rmtree(bench.place / "cache/features")
    ended = bench("run", *RUN, "images", "--overwrite")
    different = [name for name, value in _came_out(bench).items() if value != before[name]]
    return f"{', '.join(f'other {name}' for name in different) or 'as before'}; {noted(ended, path.name)}"


def _came_out(bench: Bench) -> dict[str, Any]:
    """What a cache could change in the only run."""
    (record,) = bench.records()
    (path,) = (bench.place / "results/runs").glob("*.predictions.csv")
    memory = [value for name, value in sorted(record["measurements"].items()) if "memory" in name]
    return {"predictions": path.read_bytes(), "memory": memory}


def edited(path: Path) -> None:
    """The first decimal fraction in a file becomes another."""
    path.write_bytes(re.sub(rb"0\.\d\d", b"0.97", path.read_bytes(), count=1))


@example("cache: half of an image store inverted")
def _(bench: Bench) -> str:
    def invert(path: Path) -> None:
        images = np.load(path)
        images[::2] = 255 - images[::2]
        np.save(path, images)

    return again(bench, "images/*-train-*.npy", invert)


@example("cache: an image store of zeros")
def _(bench: Bench) -> str:
    return again(bench, "images/*-train-*.npy", lambda path: np.save(path, np.zeros_like(np.load(path))))


@example("cache: normalisation edited")
def _(bench: Bench) -> str:
    return again(bench, "normalization/*", edited)


@example("cache: a memory prediction edited")
def _(bench: Bench) -> str:
    def edit(path: Path) -> None:
        path.write_bytes(re.sub(rb"(\d{7,})", b"77777777", path.read_bytes()))

    return again(bench, "predictions/*", edit)


@example("an image replaced by another of its size and time (`cp -p`)")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    for path in (bench.place / "images").rglob("*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))  # without compression: of one size
        path.unlink()
    bench("run", *RUN, "images")
    path = bench.place / "images/test/dark/0.bmp"
    status = path.stat()
    Image.new("RGB", Image.open(path).size, "white").save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    bench("run", *RUN, "images")
    return "seen" if len(bench.records()) == 2 else "not seen: the stored run stands for it"


# ---- records ----


def edit_record(bench: Bench, edit: Callable[[dict[str, Any]], None]) -> str:
    """The exit status of four commands once a record was edited."""
    make_images(bench.place / "images")
    bench("run", *RUN, "images")
    (path,) = (bench.place / "results/runs").glob("*.json")
    record = json.loads(path.read_text())
    edit(record["measurements"]["test"])
    path.write_text(json.dumps(record))
    commands = (("tables",), ("tables", "--layout", "paper"), ("plots",), ("report",))
    return "; ".join(f"{' '.join(command)} {bench(*command).status}" for command in commands)


@example("record: an edited AUC: exit status of commands")
def _(bench: Bench) -> str:
    return edit_record(bench, lambda test: test.update(auc=0.123))


@example("record: an edited accuracy: exit status of commands")
def _(bench: Bench) -> str:
    return edit_record(bench, lambda test: test.update(accuracy=0.123))


@example("record: probabilities edited, their order kept: exit status of tables")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    bench("run", *RUN, "images")
    (path,) = (bench.place / "results/runs").glob("*.predictions.csv")
    path.write_text(re.sub(r"(\.\d{2})\d", r"\g<1>5", path.read_text()))
    return last(bench("tables"))


@example("record: predictions deleted")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    bench("run", *RUN, "images")
    (path,) = (bench.place / "results/runs").glob("*.predictions.csv")
    path.unlink()
    told = last(bench("tables"))
    bench("run", *RUN, "images")
    return f"tables {told}; made again by run: {path.exists()}"


@example("record and page: what of this machine they name")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    bench("run", *RUN, str(bench.place / "images"))
    bench("report")
    text = "".join(path.read_text() for path in (bench.place / "results").rglob("*.json"))
    text += "".join(path.read_text() for path in (bench.place / "results").rglob("*.html"))
    named = {"folder": str(bench.place) in text, "host": re.search(rf'"{re.escape(os.uname().nodename)}"', text)}
    return ", ".join(what for what, found in named.items() if found) or "nothing"


# ---- hangs and silent readings ----


@example("a FIFO among the images")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    os.mkfifo(bench.place / "images/train/dark/9.png")
    return f"run {last(bench('run', *RUN, 'images'))}; check {noted(bench('check', 'images'), '9.png')}"


def asked(title: str, *arguments: str, suite: str = "") -> None:
    """Adds a command line that is wrong, or seems right."""

    @example(title)
    def _(bench: Bench) -> str:
        make_images(bench.place / "images")
        if suite:
            (bench.place / "mine.yaml").write_text(suite)
        return last(bench(*arguments))


asked("--res 10**30", "run", *RUN, "images", "--res", str(10**30))
asked("--res 10**9", "run", *RUN, "images", "--res", str(10**9))
asked("--seeds 2**70", "run", *RUN, "images", "--seeds", str(2**70), "--dry-run")
DRY = ("run", "--suite", "mine.yaml", "--methods", "linear", *MODEL, "--datasets", "images", "--dry-run")
asked("suite file: `epochs: 010`", *DRY, suite="epochs: 010\n")
asked("suite file: `epochs: 1:30`", *DRY, suite="epochs: 1:30\n")
asked("suite file: `epochs` twice", *DRY, suite="epochs: 3\nepochs: 4\n")
TWICE = ("--set", "lora.rank=4", "--set", "lora.rank=8")
asked("--set twice", "run", "--methods", "lora", *MODEL, "--datasets", "images", "--dry-run", *TWICE)
asked("list runs --results typo", "list", "runs", "--results", "typo")
asked("--cache FILE", "run", *RUN, "images", "--cache", "images/train/dark/0.png")
asked("clean caches x", "clean", "caches", "x")
