"""Kills a suite at random moments until it is done all the same, and compares it with an undisturbed one.

`PYTHONPATH=. python tests/fault_injection.py --kills 200` prints how many moments were tried, of what kind, and what
was found. Suites are real: trials of two learning rates, then runs, with and without preloaded features, everything
cold.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from bench_process import TINY, start
from inside import finish_inside
from tiny_images import make_images

from benchmarks.records.record import load_records

SUITE = ("--methods", "full", "fpt", "--lr", "1e-4", "1e-3", "--epochs", "15", *TINY)
NUM_RECORDS = {"results/trials": 4, "results": 2}
LONGEST = 15.0  # seconds from a start, or a kill, to the next kill
KINDS = ("SIGKILL parent", "SIGKILL run", "SIGKILL all", "SIGTERM parent", "SIGINT parent")


def scores(record: dict[str, Any]) -> dict[str, Any]:
    """All that training decides, without what the clock decides."""
    measured = record["measurements"]
    return {
        "state": record["status"],
        "history": [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in measured.get("history", ())],
        "selection": record["run"].get("selection"),
        "scores": [measured.get("val"), measured.get("test")],
    }


def outcome(folder: Path) -> dict[str, Any]:
    """The scores and predictions of each record."""
    found: dict[str, Any] = {}
    for results in NUM_RECORDS:
        records, problems = load_records(folder / results)
        assert not problems, problems
        for record in records:
            path = folder / results / "runs" / f"{record['run_id']}.predictions.csv"
            predictions = path.read_text() if path.exists() else None
            found[f"{results} {record['run_id']}"] = scores(record) | {"predictions": predictions}
    return found


def finished(folder: Path) -> dict[Path, bytes]:
    """The files of all finished records; that a file is no record is an error."""
    files: dict[Path, bytes] = {}
    for results in NUM_RECORDS:
        _, problems = load_records(folder / results)
        assert not problems, problems
        for path in (folder / results / "runs").glob("[!.]*.json"):
            record = json.loads(path.read_bytes())
            if record["status"]["state"] == "ok":
                predictions = path.with_name(f"{record['run_id']}.predictions.csv")
                assert record["run"]["config"]["trial"] or predictions.exists()
                files |= {file: file.read_bytes() for file in (path, predictions) if file.exists()}
    return files


def disturb(folder: Path, kills: int, dice: random.Random) -> Counter[str]:
    """Runs the suite to its end, killing it up to `kills` times on the way; returns the kinds of kills that hit."""
    hit: Counter[str] = Counter()
    before: dict[Path, bytes] = {}
    while True:
        process, going_on = start(folder, *SUITE), True
        while going_on and sum(hit.values()) < kills:
            time.sleep(dice.uniform(0.1, LONGEST))
            kind = dice.choice(KINDS)
            if process.poll() is None and strike(process.pid, kind):
                hit[kind] += 1
            going_on = process.poll() is None and kind.endswith("run")  # after a run's death its suite goes on
        _, stderr = process.communicate()
        assert "Traceback" not in stderr, stderr
        now = finished(folder)
        lost = [path.name for path, content in before.items() if now.get(path) != content]
        assert not lost, f"finished records were lost or changed: {lost}"
        before = now
        if process.returncode == 0:
            return hit
        assert hit, stderr


def strike(pid: int, kind: str) -> bool:
    """Sends the signal; False where what it is for has ended or not begun."""
    name, _, target = kind.partition(" ")
    try:
        parent = psutil.Process(pid)
        runs = sorted(parent.children(), key=lambda child: child.create_time())
        victims = {"parent": [parent], "run": runs[:1], "all": [parent, *runs]}[target]
        for victim in victims:
            victim.send_signal(signal.Signals[name])
    except psutil.NoSuchProcess:
        return False
    return bool(victims)


def check_end(folder: Path, undisturbed: dict[str, Any]) -> int:
    """Compares with the undisturbed suite, bit for bit; returns how often a run went on from a checkpoint."""
    now = outcome(folder)
    assert now.keys() == undisturbed.keys()
    for record, expected in undisturbed.items():
        assert now[record] == expected, f"{record}:\n{now[record]}\n{expected}"
    left = [path for path in (folder / "results").rglob("*") if path.suffix in (".tmp", ".lease", ".pt")]
    assert not left, left
    return sum(
        len(record["run"]["resumed_after"]) for results in NUM_RECORDS for record in load_records(folder / results)[0]
    )


def inject(root: Path, kills: int, seed: int) -> tuple[Counter[str], int, int]:
    """Disturbs suites until `kills` have hit.

    Returns:
        The kills by kind, the number of suites, and how often a run went on from a checkpoint.
    """
    calm = root / "calm"
    make_images(calm / "images")
    ended = finish_inside(calm, *SUITE)
    assert ended.returncode == 0, ended.stderr
    undisturbed = outcome(calm)
    assert Counter(key.split()[0] for key in undisturbed) == NUM_RECORDS
    hit: Counter[str] = Counter()
    suites = resumed = 0
    dice = random.Random(seed)
    while (missing := kills - sum(hit.values())) > 0:
        folder = root / f"suite-{suites}"
        make_images(folder / "images")
        hit += disturb(folder, missing, dice)
        resumed += check_end(folder, undisturbed)
        suites += 1
        print(f"{sum(hit.values())} kills in {suites} suites, {resumed} resumptions", file=sys.stderr, flush=True)
    return hit, suites, resumed


def main() -> int:
    """Prints what was tried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hit, suites, resumed = inject(Path(folder), args.kills, args.seed)
    for kind, number in sorted(hit.items()):
        print(f"{kind}: {number}")
    print(
        f"{sum(hit.values())} moments in {suites} suites; {resumed} times a run went on from a checkpoint; every suite"
    )
    print("ended with the records and predictions of an undisturbed one, bit for bit; no finished record was touched")
    return 0


if __name__ == "__main__":
    sys.exit(main())
