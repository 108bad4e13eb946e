"""Compiled steps: the same losses and weights, a warm-up of its own, and what is refused before any work."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_process import TINY, records
from fixed_records import make_record
from inside import finish_inside
from small_backbones import SMALL
from tiny_images import make_images

from benchmarks.analysis.summary import summary
from benchmarks.records.frame import runs_frame
from benchmarks.report.missing_runs import seed_commands
from benchmarks.training import compiled
from benchmarks.training.compiled import check_compile

CAN_COMPILE = any(map(shutil.which, compiled.CPU_COMPILERS))


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(not CAN_COMPILE and "CI" not in os.environ, reason="needs a C++ compiler")
def test_compiled_steps_give_the_same_losses_and_their_warm_up_is_no_epochs(tmp_path: Path) -> None:
    """With dropout, which draws the same numbers; against a run that is not compiled."""
    make_images(tmp_path / "images")
    options = ["--methods", "lora", *TINY, "--epochs", "2", "--set", "lora.dropout=0.5"]
    options += ["--backbone", f"vit_tiny_patch16_224[{SMALL}]"]
    for how in ("none", "default"):
        ended = finish_inside(tmp_path, *options, "--compile", how)
        assert ended.returncode == 0, ended.stderr
    stored = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*.json")]
    plain, other = sorted(stored, key=lambda record: str(record["run"]["config"].get("compile", "none")), reverse=True)
    assert other["run"]["config"]["compile"] == "default" and other["run_id"] != plain["run_id"]

    def measured(record: dict[str, Any]) -> list[float]:
        history = record["measurements"]["history"]
        return [entry[name] for entry in history for name in ("loss", "val_loss", "val_auc")]

    assert measured(other) == pytest.approx(measured(plain), rel=1e-5)
    seconds = other["measurements"]["seconds"]
    assert seconds["compile"] > seconds["train"] and "compile" not in plain["measurements"]["seconds"]
    assert "predicted_memory" not in other["measurements"] and "predicted_memory" in plain["measurements"]


@pytest.mark.skipif(not CAN_COMPILE and "CI" not in os.environ, reason="needs a C++ compiler")
def test_a_step_that_cannot_be_compiled_says_what_to_leave_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> Any:
        raise torch._dynamo.exc.TorchDynamoException("a value cannot be saved\nand more")

    monkeypatch.setattr(compiled, "batch_loss", failing)
    make_images(tmp_path / "images")
    ended = finish_inside(tmp_path, "--methods", "linear", *TINY, "--compile", "default")
    assert ended.returncode == 1
    status = records(tmp_path / "results")["linear"]["status"]
    assert status["state"] == "failed" and status["message"].endswith("; leave out --compile")
    assert "got linear (TorchDynamoException: a value cannot be saved and more)" in status["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("default", "cpu", "activations"), "offload must be none with compiled steps"),
        (("reduce-overhead", "cpu", "none"), "compile must be none or default on a CPU"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_compile(*arguments)


def test_without_a_compiler_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(Exception, match="compile must be none without a C"):
        check_compile("default", "cpu", "none")
    check_compile("none", "cpu", "none")
    check_compile("default", "cuda", "none")


def test_rows_of_compiled_runs_say_so_and_their_commands_ask_for_it() -> None:
    modes = ("none", "default", "reduce-overhead")
    configs: list[dict[str, Any]] = [{} if mode == "none" else {"compile": mode} for mode in modes]
    table = summary(runs_frame(make_record("lora", config=one, tag=str(at)) for at, one in enumerate(configs)))
    assert list(table["label"]) == ["LoRA", "LoRA (compiled)", "LoRA (compiled, CUDA graphs)"]
    (command,) = seed_commands(table[table["label"] == "LoRA (compiled)"], 2)
    assert command.count("--compile default") == 1
