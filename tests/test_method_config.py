"""Options of methods: names, types, and what a method asks of a backbone."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd
import pytest
import torch

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.config import RunConfig
from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import point_of_run
from benchmarks.model.build import build_parts
from benchmarks.model.method_config import make_config
from benchmarks.model.variants import read_variants
from benchmarks.report.missing_runs import _as_asked
from methods import METHODS
from methods.probes import linear


def test_unknown_option_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"option of lora must be one of lr, .*rank.*, got 'ranks'"):
        make_config("lora", {"ranks": 8})


@pytest.mark.parametrize(
    ("method", "option", "value", "rule"),
    [
        ("lora", "rank", 8.5, "a whole number, at least 1"),
        ("lora", "rank", "8", "a whole number, at least 1"),
        ("lora", "rank", True, "a whole number, at least 1"),
        ("lora", "rank", None, "a whole number, at least 1"),
        ("lora", "alpha", "much", "a number, above 0"),
        ("lora", "lr", float("inf"), "a number, above 0"),
        ("lora", "lr", float("nan"), "a number, above 0"),
        ("lora", "weight_decay", -1, "a number, at least 0"),
        ("fpt", "layers", None, "a text"),
    ],
)
def test_an_option_of_another_type_is_refused(method: str, option: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{option} of {method} must be {rule}, got {value!r}"):
        make_config(method, {option: value})


def test_equal_settings_are_equal_however_they_are_written() -> None:
    config = make_config("lora", {"alpha": 16, "dropout": "1e-1"})
    assert (config.dropout, repr(config.alpha)) == (0.1, repr(make_config("lora", {}).alpha))
    assert make_config("fpt", {"layers": 3}).layers == "3"


@dataclass(frozen=True)
class AnyConfig(linear.Config):
    """Every kind of option."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    bias: bool = True
    rank: int | None = None
    start: Literal["zeros", "data"] = "zeros"
    layers: tuple[int, ...] = (0, 1)


@pytest.fixture
def make_any(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Any]:
    monkeypatch.setitem(METHODS, "any", dataclasses.replace(linear.METHOD, name="any", config=AnyConfig))
    return lambda options: make_config("any", options)


@pytest.mark.parametrize(
    ("option", "value", "read"),
    [
        ("bias", False, False),
        ("rank", 4, 4),
        ("rank", None, None),
        ("start", "data", "data"),
        ("layers", [3, 5], (3, 5)),
        ("layers", 7, (7,)),
        ("layers", [], ()),
    ],
)
def test_options_of_every_kind(make_any: Callable[[dict[str, Any]], Any], option: str, value: Any, read: Any) -> None:
    config = make_any({option: value})
    assert getattr(config, option) == read
    assert make_any(dataclasses.asdict(config)) == config
    point = MemoryPoint("any", 224, options=tuple(sorted(dataclasses.asdict(config).items())))
    stored = MemoryPoint.from_dict(json.loads(json.dumps(point.as_dict())))
    assert stored == point and hash(stored) == hash(point)


def test_a_run_whose_options_came_as_json_has_the_same_memory_point() -> None:
    config = RunConfig(
        "any", "images", "0" * 64, 224, seed=0, backbone=DEFAULT_BACKBONE, weights="none", weights_sha256=None,
        epochs=1, batch_size=4, lr=1e-3, weight_decay=0.0, options={"layers": (0, 1), "rank": None},
    )  # fmt: skip
    given = RunConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert point_of_run(given, 2) == point_of_run(config, 2) and hash(point_of_run(given, 2))


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("bias", 1, "true or false"),
        ("bias", "yes", "true or false"),
        ("bias", None, "true or false"),
        ("rank", 1.5, "a whole number, or null"),
        ("rank", True, "a whole number, or null"),
        ("start", "ones", "one of zeros, data"),
        ("start", None, "one of zeros, data"),
        ("layers", [1, "a"], "a list, each a whole number"),
        ("layers", None, "a list, each a whole number"),
    ],
)
def test_a_wrong_value_of_any_kind_is_refused(
    make_any: Callable[[dict[str, Any]], Any], option: str, value: Any, rule: str
) -> None:
    with pytest.raises(UserError, match=f"{option} of any must be {rule}, got"):
        make_any({option: value})


@pytest.mark.parametrize(
    ("method", "backbone", "reason"),
    [
        ("fpt", "vit_base_patch16_rpn_224", r"blocks of another kind \(ResPostBlock\)"),
        ("fpt_plus", "vit_dwee_patch16_reg1_gap_256", r"attention of another kind \(DiffAttention\)"),
        ("adapter", "vit_base_patch16_xp_224", r"blocks of another kind \(ParallelScalingBlock\)"),
        ("lora", "vit_base_patch16_xp_224", "no joint projection of queries, keys and values"),
    ],
)
def test_a_backbone_that_lacks_what_a_method_needs_is_refused(method: str, backbone: str, reason: str) -> None:
    with (
        torch.device("meta"),
        pytest.raises(UserError, match=f"backbone must suit {method}, got '{backbone}', .*{reason}"),
    ):
        build_parts(method, make_config(method, {}), backbone, 2)


@pytest.mark.parametrize(
    "backbone", ["vit_base_patch16_xp_224", "vit_base_patch16_rpn_224", "vit_base_patch16_18x2_224"]
)
@pytest.mark.parametrize("method", ["full", "linear", "vpt"])
def test_what_a_method_does_not_need_is_not_asked_for(method: str, backbone: str) -> None:
    with torch.device("meta"):
        assert build_parts(method, make_config(method, {}), backbone, 2).model is not None


def test_a_missing_run_is_described_by_a_command_that_reads_back(make_any: Callable[[dict[str, Any]], Any]) -> None:
    """Options of every kind, from a record to the command line that would run another seed of it, and back."""
    options = {"bias": False, "rank": 4, "start": "data", "layers": [3, 5]}
    settings = {**dataclasses.asdict(make_any(options)), "options": options}
    rows = pd.DataFrame({"variant": [json.dumps(settings)]})
    variant, flags = _as_asked("any", rows)
    assert read_variants(variant) == [("any", options)] and flags == ()
    nothing = pd.DataFrame({"variant": [json.dumps(dataclasses.asdict(make_any({"rank": None})))]})
    assert _as_asked("any", nothing) == ("any", ())
