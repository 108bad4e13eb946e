"""README.md is true: its commands parse, its figures are those of the stored records, its links lead somewhere."""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from bench_process import options_of

from bench import make_parser
from benchmarks.commands import COMMANDS
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMAND_LINES = re.findall(r"^python bench\.py (.*?)(?:\s+#.*)?$", README, flags=re.MULTILINE)


def test_there_are_commands() -> None:
    assert len(COMMAND_LINES) >= 5
    assert "make bench" in README and "make test" in README


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line)
    name = "run" if words[0].startswith("-") else words.pop(0)
    parser = make_parser(COMMANDS[name])
    args = options_of(*words) if name == "run" else parser.parse_args(words)
    for method in getattr(args, "methods", None) or []:
        assert method == "all" or method in METHODS


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def phases(precision: Any, attention: Any, method: str) -> dict[str, Any]:
    """Peaks by phase of what was measured, or else of what is predicted."""
    found = (ROOT / "results/measured/nvidia-h100-80gb-hbm3").glob(
        f"{method}_vit_base_patch16_384_512px_b16_{precision}_{attention}_c5.json"
    )
    for path in found:
        return dict(json.loads(path.read_text())["memory"]["phases"])
    point = MemoryPoint(method, 512, precision=precision, attention=attention)
    return dict(predict_memory(point).as_record()["phases"]) | {"predicted": True}


def test_memory_figures_are_those_of_the_records() -> None:
    with (ROOT / "results/published/fpt_readme.csv").open() as file:
        published = {row["method"]: row for row in csv.DictReader(file)}
    names = {method.title: name for name, method in METHODS.items()}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines() if line[:2] == "| "]
    checked = 0
    for title, *cells in rows:
        if title not in names or len(cells) != 6:  # the table of FPT's own costs has five
            continue
        name = names[title]
        figures = [None if cell == "–" else int(cell.replace(",", "").rstrip("†")) for cell in cells]
        memory = published[name]["memory_mb"] if name in published else None
        paper, fused, default = (
            phases(*protocol, name) for protocol in (("fp32", "eager"), ("fp32", "sdpa"), ("bf16", "sdpa"))
        )
        assert figures == [
            None if memory is None else int(memory),
            round(paper["train"]["peak_process_bytes"] / 2**20),
            round(paper["train"]["peak_allocated_bytes"] / 2**20),
            round(fused["train"]["peak_allocated_bytes"] / 2**20),
            round(default["train"]["peak_allocated_bytes"] / 2**20),
            round(default["preload"]["peak_allocated_bytes"] / 2**20) if "preload" in default else None,
        ]
        assert [cell[-1] == "†" for cell in cells[1:]] == 5 * ["predicted" in paper]
        checked += 1
    assert checked == 7


def test_the_costs_of_fpt_are_those_of_the_stored_table() -> None:
    stored = (ROOT / "results/speed/fpt.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in stored.splitlines() if line[:1] == "|"]
    for title, name in (("FPT", "fpt"), ("FPT+", "fpt_plus")):
        (memory,) = (row[4:9] for row in rows if row[:4] == [name, "512", "fp32", "sdpa"])
        (ratio,) = (row[4] for row in rows if row[:2] == [name, "cpu"] and len(row) == 5)
        authors, *others = [f"{int(float(cell)):,}" for cell in memory]
        assert f"| {title} | {authors} | {' | '.join(others)} |" in README
        assert f"{float(ratio):.1f} ({title})" in README
