"""How near predicted memory comes to what was measured, and how much of the distance is where a model was built.

    python -m benchmarks.speed.memory > results/speed/memory.md

Each stored measurement is predicted twice: as runs do it now, which build the model on the host and move it to the GPU,
and built on the GPU, parameter by parameter, as the code did that took the measurements. What is requested is the same;
where its blocks lie differs, and with it what else fits beside them.
"""

import argparse
import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.choices import COUNTERS
from benchmarks.environment import ROOT
from benchmarks.memory.measured import read_measured
from benchmarks.memory.phases import build_point
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import TracedRun, trace_run
from benchmarks.memory.replay import PhasePeak, replay
from benchmarks.memory.table import short_name
from benchmarks.memory.trace import address

GOAL_PERCENT = 3
Events = list[tuple[int, int]]


class BuildTrace(TorchDispatchMode):
    """Allocations and releases while a model is built, as `StorageTrace.events`; storages count down from -1."""

    def __init__(self) -> None:
        super().__init__()
        self.events: Events = []
        self.number: dict[int, int] = {}  # live storages by their address
        self._references: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and address(tensor) not in self.number and tensor.untyped_storage().nbytes():
                self._see(address(tensor), tensor.untyped_storage())
        return result

    def _see(self, key: int, storage: torch.UntypedStorage) -> None:
        number = -1 - sum(size >= 0 for _, size in self.events)
        self.number[key] = number
        self.events.append((number, storage.nbytes()))
        self._references[number] = weakref.ref(storage, lambda _: self._release(key, number))

    def _release(self, key: int, number: int) -> None:
        del self.number[key], self._references[number]
        self.events.append((number, -1))


def build_events(point: MemoryPoint) -> tuple[Events, list[int]]:
    """Events of building a point's model, and the storages of its tensors in the order of moving them."""
    trace = BuildTrace()
    with trace:
        parts = build_point(point)
    gc.collect()
    order: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        order.append(trace.number[address(tensor)])
        return tensor

    for part in (parts.model, parts.extractor):
        if part is not None:
            part._apply(note)
    return list(trace.events), order


def built_on_gpu(traced: TracedRun, building: tuple[Events, list[int]]) -> dict[str, PhasePeak]:
    """Predicted peaks of a traced run whose setup builds in place."""
    (begin, end), (events, order) = traced.bounds["setup"], building
    moved = [number for number, size in traced.trace.events[begin:end] if size >= 0]
    names = dict(zip(order, moved, strict=True))
    setup = [(names.get(number, number), size) for number, size in events]
    longer = len(setup) - (end - begin)
    bounds = {name: (first + longer, last + longer) for name, (first, last) in traced.bounds.items()}
    bounds["setup"] = (begin, end + longer)
    tags = dict.fromkeys((number for number, _ in setup), "setup") | traced.trace.tags
    return replay(traced.trace.events[:begin] + setup + traced.trace.events[end:], tags, bounds)


def errors(results: Path) -> Iterator[dict[str, Any]]:
    """A row for each measured phase, counter and way of building: the prediction's error in percent."""
    built: dict[tuple[Any, ...], tuple[Events, list[int]]] = {}
    records = [record for record in read_measured(results) if record["status"]["state"] != "failed"]
    for number, record in enumerate(records, start=1):
        point = MemoryPoint.from_dict(record["point"])
        print(f"{number}/{len(records)} {point.name}", file=sys.stderr, flush=True)
        traced = trace_run(point)
        kind = (point.method, point.backbone, point.resolution, point.num_classes, point.options)
        if kind not in built:
            built[kind] = build_events(point)
        ways = {
            "moved to the GPU, as runs do": replay(traced.trace.events, traced.trace.tags, traced.bounds),
            "built on the GPU, as measured": built_on_gpu(traced, built[kind]),
        }
        for phase, peaks in record["memory"]["phases"].items():
            for way, predicted in ways.items():
                for name in map(short_name, COUNTERS):
                    measured = peaks[f"peak_{name}_bytes"]
                    error = 100 * (getattr(predicted[phase], name) / measured - 1) if measured else None
                    yield {"model": way, "counter": name, "point": point.name, "phase": phase, "error": error}


def summarised(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts, median and worst by way of building and counter."""
    lines = []
    for (way, counter), group in rows.dropna().groupby(["model", "counter"], sort=False):
        size = group["error"].abs()
        worst = group.iloc[int(size.argmax())]
        lines.append(
            {
                **{"model": way, "counter": counter, "phases": len(group), "exact": int((size < 0.005).sum())},
                f"within {GOAL_PERCENT} %": int((size <= GOAL_PERCENT).sum()),
                **{"median %": f"{size.median():.2f}", "worst %": f"{worst['error']:+.2f}".replace("-", "−")},
                "worst phase": f"{worst['phase']} of {worst['point']}",
            }
        )
    return pd.DataFrame(lines)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR")
    args = parser.parse_args()
    table = summarised(pd.DataFrame(errors(args.results)))
    print("# Predicted memory beside measured\n\nMade by `python -m benchmarks.speed.memory`.\n")
    print(table.to_markdown(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
