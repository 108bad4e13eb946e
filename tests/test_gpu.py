"""On an NVIDIA GPU: measured memory against predicted. Run alone: `pytest -m gpu tests/test_gpu.py`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.measure import measure_points
from benchmarks.phases import MemoryPoint
from benchmarks.predict import predict_memory
from methods import METHODS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
FACTORS: list[dict[str, Any]] = [
    {"precision": "fp32", "attention": "eager"},
    {"precision": "bf16", "attention": "sdpa"},
    {"precision": "bf16", "attention": "sdpa", "grad_checkpointing": True},
    {"precision": "fp16", "attention": "eager"},
]


@pytest.mark.parametrize("method", METHODS)
def test_measured_is_within_3_percent_of_predicted(method: str, tmp_path: Path) -> None:
    points = [MemoryPoint(method, 384, **factors) for factors in FACTORS]
    for point, record in zip(points, measure_points(points, tmp_path, torch.device("cuda:0")), strict=True):
        assert record["status"]["state"] == "ok", record["status"]
        assert record["environment"]["tf32_matmul"] is record["environment"]["tf32_cudnn"] is False
        for phase, peak in predict_memory(point).phases.items():
            measured = record["memory"]["phases"][phase]
            assert peak.allocated == pytest.approx(measured["peak_allocated_bytes"], rel=0.03), (point.name, phase)
            assert measured["peak_process_bytes"] > measured["peak_reserved_bytes"] >= measured["peak_allocated_bytes"]
