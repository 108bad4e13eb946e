"""Memory of a method with each saver: the table's rows, and the curves of those that save something."""

import csv
import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import bench
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.memory.savers import SAVERS
from benchmarks.report.savers_plot import plot_savers

GIB = 2**30
# By saver: the whole run at 512 px and its training alone, in GiB; at 1024 px four times that.
SIZES = {"none": (10, 10), "offloaded": (4, 2), "8-bit AdamW": (9.9, 9.9)}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were drawn, in their order."""
    figures: list[Figure] = []
    close = plt.close

    def keep(figure: Figure) -> None:
        figures.append(figure)
        close(figure)

    monkeypatch.setattr(plt, "close", keep)
    return figures


def points(methods: tuple[str, ...] = ("lora",)) -> pd.DataFrame:
    same: dict[str, Any] = {"backbone": "vit", "batch_size": 16, "precision": "bf16", "attention": "sdpa"}
    same |= {"source": "predicted", "status": "ok"}
    rows = [
        same
        | {"method": method, "resolution": side, "grad_checkpointing": checkpointing, "savers": savers}
        | {"phase": phase, "peak_allocated_bytes": int(size * (side / 512) ** 2 * GIB / (3 if checkpointing else 1))}
        for method in methods
        for savers, sizes in SIZES.items()
        for checkpointing in (False, True)
        for side in (512, 1024)
        for phase, size in zip(("whole run", "train"), sizes, strict=True)
        if not (checkpointing and savers == "8-bit AdamW")
    ]
    return pd.DataFrame(rows)


def test_each_saver_that_saves_has_a_line(tmp_path: Path, drawn: list[Figure]) -> None:
    paths = plot_savers(points(), tmp_path / "savers.png")
    assert [path.name for path in paths] == ["savers.png", "savers.pdf"]
    (figure,) = drawn
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels[:4] == ["no saver", "checkpointing", "offloaded", "checkpointing, offloaded"]
    said = " ".join(text.get_text() for text in figure.texts)
    assert "Not drawn, as within 4 % of no saver: 8-bit AdamW." in " ".join(said.split())
    curves = [
        np.asarray(line.get_ydata()) / GIB
        for line in figure.axes[0].lines
        if line.get_linestyle() == "-" and line.get_alpha() is None and np.asarray(line.get_xdata())[0] == 512
    ]
    expected = np.array([[10, 40], [10 / 3, 40 / 3], [4, 16], [4 / 3, 16 / 3]])
    assert np.allclose(np.array(curves), expected, rtol=1e-6)


def test_methods_have_panels_of_their_own(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_savers(points(("lora", "full")), tmp_path / "savers.png")
    assert [axes.get_title(loc="left") for axes in drawn[0].axes[:2]] == ["LoRA", "Full fine-tuning"]


def test_the_command_predicts_each_saver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = "vit_tiny_patch16_224[depth=2,embed_dim=48,num_heads=3]"
    words = ["memory", "--each-saver", "--methods", "full", "--res", "32", "--batch-size", "4", "--backbone", backbone]
    words += ["--format", "csv", "--cache", str(tmp_path), "--plot", str(tmp_path / "savers")]
    assert bench.main(words) == 0
    rows = [row for row in csv.DictReader(io.StringIO(capsys.readouterr().out)) if row["phase"] == "whole run"]
    told = {(row["grad_checkpointing"], row["savers"]): row["peak_allocated_bytes"] for row in rows}
    assert len(told) == len(rows) == len(SAVERS)
    refused = {savers for (_, savers), size in told.items() if not size}
    assert len(refused) == 3 and all("weights" in savers for savers in refused)  # quantised, as nothing is frozen
    offloaded = MemoryPoint("full", 32, 4, backbone, precision="bf16", attention="sdpa", offload="activations")
    assert int(told["False", "offloaded"]) == predict_memory(offloaded).highest.allocated < int(told["False", "none"])
    assert (tmp_path / "savers.png").is_file()


def test_a_saver_that_a_method_refuses_is_said_below_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = "vit_tiny_patch16_224[depth=2,embed_dim=48,num_heads=3]"
    words = ["memory", "--each-saver", "--methods", "eva", "--res", "32", "--batch-size", "4", "--backbone", backbone]
    assert bench.main([*words, "--cache", str(tmp_path), "--plot", str(tmp_path / "savers")]) == 0
    said = capsys.readouterr()
    cells = {line.split("|")[2].strip(): line.split("|")[-2].strip() for line in said.out.splitlines() if "eva" in line}
    refused = {saver for saver, cell in cells.items() if cell == "refused"}
    assert refused == {saver for saver in cells if " weights" in saver} and len(refused) == 5 < len(cells)
    assert all(cell.isdigit() for saver, cell in cells.items() if saver not in refused)
    reason = "frozen weights must lie in fp32 for eva, which starts from data"
    assert f"eva with bf16 weights is refused: {reason}" in said.err


def test_what_is_refused_without_a_saver_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["memory", "--each-saver", "--methods", "lora", "--res", "8", "--cache", str(tmp_path)]
    assert bench.main(words) != 0
    assert "is refused" not in capsys.readouterr().err


def test_rows_of_one_resolution_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = "vit_tiny_patch16_224[depth=2,embed_dim=48,num_heads=3]"
    words = ["memory", "--each-saver", "--methods", "lora", "--res", "32", "--batch-size", "4", "--backbone", backbone]
    assert bench.main([*words, "--cache", str(tmp_path)]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if line.startswith("| lora")]
    assert len({line.rpartition("|")[0].rpartition("|")[0] for line in lines}) == len(lines) == len(SAVERS)
    assert "MiB" in said.err
