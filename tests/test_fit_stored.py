"""The best method by stored results that trains on a card: the search for the least change, and its answer."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixed_records import make_record, store_with_predictions

import bench
from benchmarks.analysis.summary import summary
from benchmarks.commands.fit_stored import point_of_cell
from benchmarks.errors import UserError
from benchmarks.memory import least_change as search
from benchmarks.memory.least_change import LeastChange, changes, least_change
from benchmarks.memory.needs import GIB, needed_bytes
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.predict import predict_memory
from benchmarks.records.frame import runs_frame

POINT = MemoryPoint("lora", 64, 4, "vit_tiny_patch16_224[depth=2,embed_dim=48,num_heads=3]", precision="bf16")


def accept(point: MemoryPoint) -> None:
    """Refuses nothing."""


def size(point: MemoryPoint) -> int:
    """Of a made-up method, in GiB: what each saver brings is known."""
    left = 20 - 4 * (point.grad_checkpointing is True) - 8 * (point.offload == "activations")
    left += 5 * (point.grad_checkpointing is True and point.offload == "activations")
    left -= (point.precision == "bf16") + (point.optimizer == "adamw8bit") + 3 * (point.frozen_weights == "bf16")
    left -= {"none": 0, "int8": 4, "nf4": 5}[point.quantize]
    return left


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Predictions are by `size`, or by a method's own entry here."""
    own: dict[str, Any] = {}

    def predicted(point: MemoryPoint, cache: Path) -> Any:
        found = own.get(point.method, size)(point)
        return SimpleNamespace(highest=SimpleNamespace(allocated=found * GIB))

    monkeypatch.setattr(search, "predict_point", predicted)
    return own


def found(point: MemoryPoint, gib: int, check: Any = accept, **allowed: bool) -> LeastChange:
    may = {"may_checkpoint": True, "may_bf16": True} | allowed
    return least_change(point, needed_bytes(gib * GIB), Path(), changes(point, **may), check)


@pytest.mark.parametrize(
    ("gib", "words", "keeps"),
    [
        *[(19, "", True), (15, "checkpointing", True), (11, "offloaded", True)],
        *[(8, "bf16 weights, offloaded", False), (7, "bf16 weights, 8-bit AdamW, offloaded", False)],
        *[(6, "int8 weights, 8-bit AdamW, offloaded", False), (5, "NF4 weights, 8-bit AdamW, offloaded", False)],
    ],
)
@pytest.mark.usefixtures("sizes")
def test_the_change_of_least_cost_is_found(gib: int, words: str, keeps: bool) -> None:
    change = found(POINT, gib).change
    assert change is not None
    assert (change.words, change.keeps_numbers) == (words, keeps)


@pytest.mark.usefixtures("sizes")
def test_what_fits_with_nothing_tells_the_least_it_needs() -> None:
    assert found(POINT, 4) == LeastChange(None, needed_bytes(5 * GIB))


@pytest.mark.usefixtures("sizes")
def test_changes_are_only_those_that_may_be() -> None:
    fp32 = replace(POINT, precision="fp32")
    fits = {11: "8-bit AdamW, offloaded", 8: "int8 weights, offloaded", 5: "bf16, NF4 weights, 8-bit AdamW, offloaded"}
    for gib, expected in fits.items():
        change = found(fp32, gib).change
        assert change is not None and change.words == expected
    words = [one.words for one in changes(fp32, may_checkpoint=False, may_bf16=False)]
    changing = ["8-bit AdamW"] + [f"{kind} weights{more}" for kind in ("int8", "NF4") for more in ("", ", 8-bit AdamW")]
    changing += ["Lion", "SGD"]
    assert words == ["", "offloaded", *(word for one in changing for word in (one, f"{one}, offloaded"))]
    saving = replace(POINT, offload="activations", frozen_weights="bf16")
    words = [one.words for one in changes(saving, may_checkpoint=False, may_bf16=True)]
    assert words == ["", *changing]


@pytest.mark.usefixtures("sizes")
def test_what_a_method_refuses_is_no_change_for_it() -> None:
    def refuse(point: MemoryPoint) -> None:
        if point.offload == "activations":
            raise UserError("offload must be none")

    change = found(POINT, 13, refuse).change
    assert change is not None and change.words == "bf16 weights, checkpointing"


@pytest.mark.usefixtures("sizes")
def test_other_optimizers_are_tried_where_8_bits_cannot_be_had() -> None:
    def refuse(point: MemoryPoint) -> None:
        if point.optimizer == "adamw8bit":
            raise UserError("optimizer adamw8bit must have the library bitsandbytes, got none")

    def fits_with(optimizer: str) -> Any:
        return lambda point: 5 + 4 * (point.optimizer != optimizer)

    for optimizer, words in {"lion": "Lion", "sgd": "SGD"}.items():
        tried = changes(POINT, may_checkpoint=True, may_bf16=False)
        with pytest.MonkeyPatch.context() as patch:
            sized = fits_with(optimizer)
            patch.setattr(
                search,
                "predict_point",
                lambda point, cache, sized=sized: SimpleNamespace(
                    highest=SimpleNamespace(allocated=sized(point) * GIB)
                ),
            )
            change = least_change(POINT, needed_bytes(5 * GIB), Path(), tried, refuse).change
        assert change is not None and (change.words, change.keeps_numbers) == (words, False)


def test_a_real_search_agrees_with_direct_predictions(tmp_path: Path) -> None:
    point = replace(POINT, batch_size=64, method="full")
    asked: list[dict[str, Any]] = [{}, {"recompute": "cheap"}, {"grad_checkpointing": True}]
    plain, selective, whole = (predict_memory(replace(point, **one)).highest.allocated for one in asked)
    assert whole < selective < plain
    tried = changes(point, may_checkpoint=True, may_bf16=False)
    answer = least_change(point, needed_bytes(selective) - 1, tmp_path, tried, accept)
    assert answer.change is not None and answer.change.words == "checkpointing"
    assert answer.needed_bytes == needed_bytes(whole)


def stored(results: Path) -> None:
    for method, skill in {"full": 1.0, "lora": 1.5, "adapter": 2.0, "linear": 0.5}.items():
        options = {"rank": 4, "alpha": 16.0} if method == "lora" else {}
        store_with_predictions(results, make_record(method, config={"options": options}), skill)


def fit(results: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[dict[str, str]], str]:
    asked = ["--any-savers", "--res", "448", "--results", str(results), "--cache", str(results), "--format", "csv"]
    assert bench.main(["fit", *asked, *words]) == 0
    said = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(said.out))), said.err


def test_stored_auc_ranks_what_a_card_can_train(
    tmp_path: Path, sizes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes["full"] = lambda point: 10 - 5 * point.grad_checkpointing
    sizes["lora"] = lambda point: 10 - 5 * (point.optimizer == "adamw8bit")
    sizes["adapter"] = lambda point: 10
    sizes["linear"] = sizes["vpt"] = lambda point: 1
    stored(tmp_path)
    methods = ["--methods", "linear", "full", "lora", "adapter", "vpt"]
    rows, said = fit(tmp_path, capsys, "--gpu-memory", "8GB", *methods)
    told = [(row["method"], row["with"], row["auc_holds"]) for row in rows]
    assert told[:4] == [
        ("Full fine-tuning", "checkpointing", "yes"),
        ("Linear probe", "nothing more", "yes"),
        ("LoRA", "8-bit AdamW", "no: other numbers"),
        ("Adapter", "no combination", ""),
    ]
    assert ("vpt", "nothing more", "") in told[4:]
    assert all(float(row["low"]) < float(row["auc"]) < float(row["high"]) for row in rows[:4])
    assert "the highest stored AUC of what fits is that of Full fine-tuning" in said
    assert "on 8 GB with no combination: Adapter" in said


def test_it_is_said_that_no_stored_run_used_another_optimizer(
    tmp_path: Path, sizes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes["lora"] = lambda point: 10 - 5 * (point.optimizer == "sgd")
    sizes["full"] = sizes["linear"] = sizes["adapter"] = lambda point: 1
    stored(tmp_path)
    rows, said = fit(tmp_path, capsys, "--gpu-memory", "8GB", "--methods", "lora", "full")
    assert ("LoRA", "SGD", "no: other numbers") in [(row["method"], row["with"], row["auc_holds"]) for row in rows]
    told = [line for line in said.splitlines() if "with Lion or SGD" in line]
    assert any("fit LoRA; no stored run" in line for line in told) and not any("Full" in line for line in told)


def test_without_stored_runs_there_is_no_auc(
    tmp_path: Path, sizes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows, said = fit(tmp_path, capsys, "--gpu-memory", "24GB", "--methods", "lora")
    assert [(row["method"], row["auc"], row["with"]) for row in rows] == [("lora", "", "nothing more")]
    assert "no AUC is known" in said


def test_a_cell_has_the_point_of_its_runs() -> None:
    config = {"options": {"rank": 4, "alpha": 16.0}, "offload": "activations", "grad_checkpointing": True}
    cell = summary(runs_frame([make_record("lora", config=config)])).iloc[0]
    assert point_of_cell(cell) == MemoryPoint(
        *("lora", 448, 16, "vit_base_patch16_384", 5, "bf16", "sdpa", True, False, (("rank", 4),)),
        offload="activations",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "any-savers must be used with --gpu-memory, got none"),
        (["--gpu-memory", "8GB", "--offload", "activations"], "offload must be left out with --any-savers"),
    ],
)
def test_questions_without_sense_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["fit", "--any-savers", "--results", str(tmp_path), *words]) != 0
    assert message in capsys.readouterr().err
