"""What 10,000 stored runs cost: whole commands in fresh processes, and bytes by methods, datasets, resolutions, seeds.

    python -m benchmarks.speed.scale [--seeds 40] [--against DIR] [--folder DIR]

Really does one run of each method on small images, then stores its record, with other scores, measurements and
predictions, for every dataset, resolution and seed of a grid: 8 methods x 8 datasets x 4 resolutions x 40 seeds, 100
test images of 3 classes. The page is opened in Debian's chromium, where there is one, driven by selenium.
"""

import argparse
import contextlib
import copy
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import softmax

from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.influence import influence
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import summary
from benchmarks.bounds import positive
from benchmarks.commands import COMMANDS
from benchmarks.commands.command_line import make_parser
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.memory.phases import views_of
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import predict_points
from benchmarks.records.frame import load_frame
from benchmarks.records.record import read_record, store_run
from benchmarks.records.schema import Record
from benchmarks.records.stored import StoredStates
from benchmarks.scores import log_odds
from benchmarks.suite.plan import make_plan
from benchmarks.suite.planned import Plan, PlannedRun
from benchmarks.suite.suite_file import read_options
from methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = Path(__file__).with_name("launcher.py")
CLASSES = ("healthy", "mild", "severe")
COUNTS = {"train": (30, 20, 10), "val": (15, 10, 5), "test": (50, 30, 20)}  # images of each class
SIDES = (32, 48, 64, 96)  # stand for 224 to 1024 px: what is timed here never looks at an image
IMPORTS = "import benchmarks.analysis.evidence, benchmarks.report.tables"
MODEL = ["--weights", "none", "--backbone", "vit_tiny_patch16_224", "--device", "cpu"]
KIB, MIB = 2**10, 2**20


def main(arguments: list[str]) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="M", help="default: all")
    parser.add_argument("--datasets", type=positive, default=8, metavar="N", help="how many (default: 8)")
    parser.add_argument("--seeds", type=positive, default=40, metavar="N", help="how many (default: 40)")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another clone, whose commands are timed as well")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to work; stays (default: a temporary one)")
    args = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        grid = Grid(folder.resolve(), args.methods, args.datasets, args.seeds)
        grid.store()
        print(f"{len(grid.plan.runs):,} runs in {len(grid.plan.cells)} cells", file=sys.stderr)
        print("## Commands\n")
        clones = [ROOT, *([args.against.resolve()] if args.against else [])]
        print(command_table(grid, clones).to_markdown(index=False))
        print("\n## The page\n")
        print(pd.DataFrame(page_rows(grid, clones)).to_markdown(index=False))
        print("\n## Bytes of one run\n")
        print(pd.DataFrame(byte_rows(grid)).to_markdown(index=False))
        print("\n## Parts of this clone's commands\n")
        print(pd.DataFrame(part_rows(grid)).to_markdown(index=False))
        print("\n## Caches\n")
        print(pd.DataFrame(cache_rows(args.methods)).to_markdown(index=False, floatfmt=",.1f"))
    return 0


class Grid:
    """A folder with datasets, and results with a record of every run of a suite.

    Args:
        folder: Where all of it lies.
        methods: Names.
        num_datasets, num_seeds: How many of each.
    """

    def __init__(self, folder: Path, methods: Sequence[str], num_datasets: int, num_seeds: int) -> None:
        self.folder, self.results, self.cache = folder, folder / "results", folder / "cache"
        names = [f"dataset{number}" for number in range(num_datasets)]
        for number, name in enumerate(names):
            if not (folder / "data" / name).exists():
                _draw_images(folder / "data" / name, number)
        places = ["--data-root", str(folder / "data"), "--cache", str(self.cache)]
        self.options = [*MODEL, *places, "--methods", *methods]
        self.all = [*self.options, "--datasets", *names, "--res", *map(str, SIDES)]
        self.all += ["--seeds", *map(str, range(num_seeds))]
        self.first = [*self.options, "--datasets", names[0], "--res", str(SIDES[0]), "--seeds", "0"]
        self.plan = self.make_plan()

    def make_plan(self) -> Plan:
        """The suite of all runs."""
        return make_plan(read_options(vars(make_parser(COMMANDS["run"]).parse_args(self.all))))

    def store(self) -> None:
        """Really does the first run of each method, and stores records like theirs for all others."""
        done = self.folder / "done"
        if done.exists():
            return
        taken_by([str(ROOT / "bench.py"), *self.first, "--results", str(done)], ROOT)
        models: dict[str, Record] = {}
        datasets: dict[str, Dataset] = {}
        for path in (done / "runs").glob("*.json"):
            record = read_record(path)
            models[record["run"]["config"]["method"]] = record
        for run in self.plan.runs:
            place = run.places
            if place.dataset not in datasets:
                datasets[place.dataset] = open_dataset(place.dataset, place.data_root, place.cache)
            store_like(models[run.config.method], run, datasets[place.dataset], self.results)


def _draw_images(root: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for split, counts in COUNTS.items():
        for label, count in zip(CLASSES, counts, strict=True):
            (root / split / label).mkdir(parents=True)
            for number in range(count + seed):  # no two datasets have the same test images
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{seed}_image_{number:04}.png")


def store_like(model: Record, run: PlannedRun, dataset: Dataset, results: Path) -> None:
    """Stores a record, and predictions of made-up skill, as one of the same method looks; full is OOM at the largest
    side.
    """
    record, config = copy.deepcopy(model), run.config
    record["run_id"], record["run"]["config"] = config.run_id, asdict(config)
    record["run"]["dataset"] |= {"name": dataset.name, "title": dataset.title, "digest": dataset.digest}
    record["run"]["dataset"]["counts"] = dataset.counts()
    record["run"]["input"] |= {"resolution": config.resolution, "effective_resolution": config.resolution}
    if config.method == "full" and config.resolution == SIDES[-1]:
        record["status"] = {"state": "oom", "message": "CUDA out of memory", "phase": "train"}
        for part in ("test", "val", "history"):
            del record["measurements"][part]
        store_run(results, record, None)
        return
    rng = np.random.default_rng([config.seed, *config.run_id.encode()])
    measured = ("test", "val", "history", "seconds", "images_per_second")
    record["measurements"] |= {name: _varied(record["measurements"][name], rng) for name in measured}
    skill = 0.5 + 0.2 * list(METHODS).index(config.method) + config.resolution / 100 + 0.1 * rng.normal()
    samples = [(split, sample) for split in ("val", "test") for sample in dataset.splits[split]]
    labels = np.concatenate([dataset.targets(split) for split in ("val", "test")])
    logits = skill * np.eye(len(CLASSES))[labels] + rng.normal(size=(len(labels), len(CLASSES)))
    scores = log_odds(logits)
    names = [dataset.classes[label] for label in labels]
    frame = pd.DataFrame([(split, each.path, name) for (split, each), name in zip(samples, names, strict=True)])
    frame = pd.concat([frame, pd.DataFrame(softmax(logits, axis=1)), pd.DataFrame(logits)], axis=1)
    columns = [f"{kind}_{name}" for kind in ("prob", "logit") for name in dataset.classes]
    frame.columns = pd.Index(["split", "path", "label", *columns])
    test = (frame["split"] == "test").to_numpy()
    for split, rows in (("test", test), ("val", ~test)):
        found = influence(labels[rows], scores[rows], np.arange(rows.sum()))
        record["measurements"][split]["auc"] = found.auc
    store_run(results, record, frame)


def _varied(measured: Any, rng: np.random.Generator) -> Any:
    """Measurements as another run has them, with as many digits: files that agree in all would be packed too well."""
    if isinstance(measured, dict):
        return {name: _varied(value, rng) for name, value in measured.items()}
    if isinstance(measured, list):
        return [_varied(value, rng) for value in measured]
    return measured * rng.uniform(0.9, 1) if isinstance(measured, float) else measured


def command_table(grid: Grid, clones: Sequence[Path]) -> pd.DataFrame:
    """Seconds of each command, of this clone and, beside it, of another, a group of commands at a time."""
    stored, empty = ["--results", str(grid.results)], ["--results", str(grid.folder / "empty")]
    # A folder that is removed first, and the commands that then find it missing, made, and made.
    groups: list[tuple[Path | None, dict[str, list[str]]]] = [
        (None, {"only importing what tables need": []}),
        (
            grid.results / ".index",
            {"list runs, the first time": ["list", "runs", *stored], "list runs, again": ["list", "runs", *stored]},
        ),
        (
            grid.results / ".statistics",
            {
                "tables, the first time": ["tables", *stored],
                "tables, again": ["tables", *stored],
                "report, the first time": ["report", *stored],
                "report, again": ["report", *stored],
                "run, all stored: tables and plots": [*grid.all, *stored],
            },
        ),
        (None, {"plots": ["plots", *stored]}),
        (
            grid.cache / "predictions",
            {
                "run --dry-run, nothing stored or predicted": [*grid.all, *empty, "--dry-run"],
                "run --dry-run, nothing stored": [*grid.all, *empty, "--dry-run"],
                "run --dry-run, all stored": [*grid.all, *stored, "--dry-run"],
            },
        ),
    ]
    rows: dict[str, dict[str, Any]] = {}
    for removed, commands in groups:
        for name, clone in zip(("", "before: "), clones, strict=False):
            if removed is not None:
                shutil.rmtree(removed, ignore_errors=True)
            for what, command in commands.items():
                arguments = [str(clone / "bench.py"), *command] if command else ["-c", IMPORTS]
                taken = taken_by(arguments, clone)
                print(f"{name}{what}: {taken}", file=sys.stderr, flush=True)
                row = rows.setdefault(what, {"command": what})
                row |= {f"{name}{quantity}": value for quantity, value in taken.items()}
                if name:
                    row["ratio"] = taken["processor seconds"] / row["processor seconds"]
    return pd.DataFrame(rows.values()).round(1)


def taken_by(arguments: Sequence[str], clone: Path) -> dict[str, float]:
    """Seconds by the clock and of all processors together, and peak MB, of a fresh Python process in a clone.

    Raises:
        RuntimeError: It failed.
    """
    ended = subprocess.run(
        [sys.executable, "-I", str(LAUNCHER), sys.executable, *arguments],
        cwd=clone, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    status, seconds, processor_seconds, peak_bytes = json.loads(ended.stdout)
    if status:
        raise RuntimeError(f"{' '.join(arguments)[:200]} ended with status {status}: {ended.stderr[-2000:]}")
    return {"seconds": seconds, "processor seconds": processor_seconds, "MB": peak_bytes / 1e6}


def page_rows(grid: Grid, clones: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """What a browser takes for the page of each clone, the median of five times."""
    for name, clone in zip(("this clone", "before"), clones, strict=False):
        page = grid.folder / f"{name.replace(' ', '-')}.html"
        taken_by([str(clone / "bench.py"), "report", "--results", str(grid.results), "--output", str(page)], clone)
        row: dict[str, Any] = {"page": name, "MB": round(page.stat().st_size / 1e6, 1)}
        if shutil.which("chromium") and shutil.which("chromedriver"):
            first, last = zip(*(_drawing_seconds(page) for _ in range(5)), strict=True)
            row["seconds until its first screen"] = round(statistics.median(first), 2)
            row["until all its figures"] = round(statistics.median(last), 2)
        yield row


def _drawing_seconds(page: Path) -> tuple[float, float]:
    """Seconds from opening a page in a fresh browser to its first screen, and to all of its figures.

    Of a page from before it had a first screen of its own both are those to all figures.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(120)
        driver.get(page.as_uri())
        first, last = driver.execute_async_script("""
            const all = () => Promise.all(typeof LOADED === "undefined" ? [] : LOADED.values());
            const painted = () => new Promise((resolve) => requestAnimationFrame(() => resolve(performance.now())));
            const first = typeof FIRST_SCREEN === "undefined" ? null : FIRST_SCREEN;
            Promise.resolve(first).then((at) => all().then(painted).then((last) => arguments[0]([at ?? last, last])));
        """)
        return float(first) / 1000, float(last) / 1000
    finally:
        driver.quit()


def part_rows(grid: Grid) -> Iterator[dict[str, Any]]:
    """Processor seconds of what commands are made of, once each, what they import left out."""
    results, num_runs = grid.results, len(grid.plan.runs)
    values: list[Any] = []

    def timed(part: str, action: Callable[[], Any]) -> dict[str, Any]:
        started = time.process_time()
        values.append(action())
        seconds = time.process_time() - started
        return {"part": part, "processor seconds": round(seconds, 2), "ms a run": round(1000 * seconds / num_runs, 3)}

    def states() -> None:
        stored = StoredStates(results, "only-missing")
        assert not any(stored.is_due(run.config.run_id) for run in values[0].runs)

    yield timed("resume: the plan (plan.make_plan)", grid.make_plan)
    yield timed("resume: which runs are stored (stored.StoredStates)", states)
    shutil.rmtree(results / ".index", ignore_errors=True)
    yield timed("all records as a frame, the first time (frame.load_frame)", lambda: load_frame(results)[0])
    yield timed("all records as a frame, kept (frame.load_frame)", lambda: load_frame(results)[0])
    frame = values[-1]
    yield timed("cells (summary.summary)", lambda: summary(frame))
    table = values[-1]
    shutil.rmtree(results / ".statistics", ignore_errors=True)
    yield timed("evidence, made (evidence.load_evidence)", lambda: load_evidence(results, frame)[0])
    yield timed("evidence, kept (evidence.load_evidence)", lambda: load_evidence(results, frame)[0])
    evidence = values[-1]
    yield timed("intervals and comparisons (significance.add_significance)", lambda: add_significance(table, evidence))


def byte_rows(grid: Grid) -> Iterator[dict[str, Any]]:
    """What one run leaves on disk, on average: what was really done, and what was stored alike for the grid."""
    images = sum(sum(COUNTS[split]) for split in ("val", "test"))
    done, grown = grid.folder / "done", grid.results
    yield {"file": "record", "grows with": "epochs", **_size(grown / "runs", "*.json")}
    yield {"file": f"predictions of {images} images", "grows with": "images, classes", **_size(grown / "runs", "*.csv")}
    yield {
        "file": "what AUC is made of, 16 for all",
        "grows with": "runs, images",
        **_size(grown / ".statistics", "ev*"),
    }
    yield {"file": "curves, 16 for all", "grows with": "runs", **_size(grown / ".statistics", "curves*")}
    yield {"file": "index of records, 16 for all", "grows with": "runs, epochs", **_size(grown / ".index", "records*")}
    yield {"file": "the frame of all", "grows with": "runs, epochs", **_size(grown / ".index", "frame")}
    yield {
        "file": "the page's part of a place",
        "grows with": "methods, seeds, epochs",
        **_size(grown / ".index", "page*"),
    }
    yield {"file": "log", "grows with": "epochs", **_size(done / "logs", "*.log")}


def _size(folder: Path, pattern: str) -> dict[str, Any]:
    sizes = [path.stat().st_size for path in folder.glob(pattern)]
    return {"files": len(sizes), "KiB each": round(sum(sizes) / len(sizes) / KIB, 1)}


def cache_rows(methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    """KiB an image that a dataset's caches take at a resolution, with the default backbone."""
    sides = (224, 384, 512, 1024)
    points = [MemoryPoint(name, side, precision="bf16", attention="sdpa") for name in methods for side in sides]
    cache = Path(".cache").resolve()
    found = dict(zip(points, predict_points(points, cache), strict=True))
    yield {"cache": "resized images of all methods"} | {
        f"{side} px": sum(
            3 * view**2 for view in {v for p in points if p.resolution == side for v in views_of(p).values()}
        )
        / KIB
        for side in sides
    }
    for name in methods:
        row = {p.resolution: found[p].feature_bytes / p.batch_size / KIB for p in points if p.method == name}
        if any(row.values()):
            yield {"cache": f"features of {name}"} | {f"{side} px": value for side, value in row.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
