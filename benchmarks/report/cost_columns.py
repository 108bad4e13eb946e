"""The columns of what using a model costs, and what is said of them."""

from collections.abc import Callable

import pandas as pd

from benchmarks.report.entries import Column, Entry

COSTS_SAID = (
    "Use: peak allocated memory of inference on an NVIDIA GPU, predicted, with 1 or 16 images at a time, weights and "
    "every network that runs included, merged where the method merges; GFLOPs: of an image, in matrix products and "
    "convolutions. A task: what is stored of each trained model; shared: what is stored once for all tasks."
)


def has_costs(block: pd.DataFrame) -> bool:
    """Whether a block knows what using its models costs."""
    return "task_bytes" in block and bool(block["task_bytes"].notna().any())


def _scaled(name: str, unit: float) -> Callable[[pd.Series], Entry]:
    def entry(row: pd.Series) -> Entry:
        if pd.isna(row[name]):
            return Entry("–")
        value = row[name] / unit
        return Entry(f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}")

    return entry


COST_COLUMNS = (
    Column("Use, 1 image (MiB)", "", -1, _scaled("use_1_bytes", 2**20)),
    Column("Use, 16 images (MiB)", "", -1, _scaled("use_16_bytes", 2**20)),
    Column("GFLOPs an image", "", -1, _scaled("use_flops", 1e9)),
    Column("A task (MiB)", "", -1, _scaled("task_bytes", 2**20)),
    Column("Shared (MiB)", "", 0, _scaled("shared_bytes", 2**20)),
)
