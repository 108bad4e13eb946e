"""Methods, variants and groups as `--methods` takes them, in every command that has it."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from bench_process import options_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_images import make_images

import bench
from benchmarks.errors import UserError
from benchmarks.memory.point import MemoryPoint
from benchmarks.model.choose import choose_variants, is_asked_for
from benchmarks.model.groups import GROUPS, members
from benchmarks.model.variants import read_variants, written
from benchmarks.names import option_text, title_of, variant_name
from benchmarks.suite.plan import make_plan
from benchmarks.suite.planned import Plan
from methods import IDEA_TITLES, IDEAS, METHODS, TITLES

TINY = "vit_tiny_patch16_224"


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of every kind; the word alone is the kind's."""

    lr_grid: ClassVar[tuple[float, ...]] = (1.0,)
    shorthand: ClassVar[str] = "kind"
    lr: float = 1.0
    weight_decay: float = 0.0
    kind: str = "OFT"
    rank: int | None = 8
    layers: tuple[int, ...] = (1, 2)
    text: str = ""
    bias: bool = True


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A method that has the name of a group, and a shorthand."""
    peft = dataclasses.replace(METHODS["lora"], name="peft", title="PEFT", config=Config, count=lambda b, c: 1)
    monkeypatch.setitem(METHODS, "peft", peft)
    yield


def names(*words: str, settings: tuple[str, ...] = (), backbone: str = TINY) -> list[str]:
    return [variant.name for variant in choose_variants(words, settings, backbone)[0]]


def test_a_grid_is_every_combination_in_its_order() -> None:
    assert names("lora:rank=4|8|64") == ["lora:rank=4", "lora:rank=8", "lora:rank=64"]
    assert names("lora:alpha=1|2,rank=4|8", "full") == [
        "lora:rank=4,alpha=1.0", "lora:rank=4,alpha=2.0", "lora:rank=8,alpha=1.0", "lora:rank=8,alpha=2.0", "full",
    ]  # fmt: skip
    assert names("fpt_plus:keep_ratio=0.5,layers=3-11") == ["fpt_plus:layers=3-11,keep_ratio=0.5"]
    assert names("lora : rank = 4 | 8 , dropout = .1".replace(" :", ":")) == [
        "lora:rank=4,dropout=0.1", "lora:rank=8,dropout=0.1",
    ]  # fmt: skip


def test_a_value_that_holds_a_comma_or_a_bar_is_quoted_or_in_brackets(stand_in: None) -> None:
    assert read_variants("peft:layers=[1,2]|[3],text='a,b|c'") == [
        ("peft", {"layers": [1, 2], "text": "a,b|c"}),
        ("peft", {"layers": [3], "text": "a,b|c"}),
    ]
    assert read_variants('peft:text="a\\",b"') == [("peft", {"text": 'a",b'})]


def test_a_word_alone_goes_to_the_option_that_the_method_names(stand_in: None) -> None:
    assert read_variants("peft:IA3|OFT,rank=4") == [
        ("peft", {"kind": "IA3", "rank": 4}),
        ("peft", {"kind": "OFT", "rank": 4}),
    ]
    assert written("peft", {"rank": 4, "kind": "IA3"}) == "peft:IA3,rank=4"
    assert written("peft", {"rank": 4}) == "peft:rank=4"


VALUES = st.fixed_dictionaries(
    {
        "kind": st.text(min_size=1).filter(lambda text: text.isprintable() and text.strip() == text),
        "layers": st.lists(st.integers(0, 99), max_size=3),
        "text": st.text().filter(str.isprintable),
        "bias": st.booleans(),
        "rank": st.none() | st.integers(0, 99),
        "lr": st.floats(1e-9, 10, allow_nan=False),
    }
)


@given(VALUES)
@example({"kind": "\\", "layers": [], "text": '\\",', "bias": False, "rank": None, "lr": 1e-3})
@settings(max_examples=40, deadline=None)
def test_a_name_reads_back_as_what_it_names(options: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "peft", dataclasses.replace(METHODS["lora"], name="peft", config=Config))
        for name in (variant_name("peft", options), written("peft", options)):
            assert read_variants(name) == [("peft", options)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("lora:rnk=4", r"option of lora must be one of lr, .*, got 'rnk'; did you mean rank\?"),
        ("lroa:rank=4", r"method must be one of full, .*, peft, .*, lean, .*, got 'lroa'; did you mean lora\?"),
        ("prompt", r"method must be one of .*; did you mean prompts\?"),
        ("lora:OFT", "option of lora must be like rank=16, got 'OFT' in 'lora:OFT'"),
        ("lora:rank=4,rank=8", "methods must give each option once, got rank twice"),
        ("lora:rank=x", "rank of lora must be a whole number, at least 1, got 'x'"),
        ("lora:rank=4|0", "rank of lora must be a whole number, at least 1, got 0"),
        ("lora:rank=[4", r"methods must have values that YAML can read, got '\[4' in 'lora:rank=\[4'"),
        ("lean:rank=4", "methods must give options to a method, got 'lean:rank=4': lean is a group of methods"),
        ("plugins", "methods must be at least one, got none: there are none in plugins"),
        *(
            (word, "methods must be like lora:rank=4,dropout=0.1 or")
            for word in ("lora:", "lora:rank=", "lora:rank=4|")
        ),
    ],
)
def test_what_is_no_variant_is_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_variants([words], (), TINY)


def test_the_same_method_and_options_run_once_and_what_stands_with_a_method_wins() -> None:
    variants, notes = choose_variants(["lora:rank=4", "lora", "lora:rank=8"], ["lora.rank=8", "lora.alpha=2"], TINY)
    assert [(one.name, one.config.rank, one.config.alpha) for one in variants] == [
        ("lora:rank=4", 4, 2.0), ("lora", 8, 2.0),
    ]  # fmt: skip
    assert notes == ["lora:rank=8 is the same as lora, which stands for both"]
    assert variants[0].changed == (("alpha", 2.0), ("rank", 4))


def test_groups_are_ideas_and_costs_and_mix_with_names() -> None:
    assert set(GROUPS) == {"all", "lean", "peft", *IDEA_TITLES} - {"full"}
    assert members("all") == list(METHODS)
    assert {"linear", "fpt", "fpt_plus"} <= set(members("lean")) and "lora" not in members("lean")
    assert members("low_rank") == [name for name, idea in IDEAS.items() if idea == "low_rank"]
    assert set(METHODS) - set(members("peft")) >= {"full"} and {"lora", "partial", "linear"} <= set(members("peft"))
    assert names("lean", "lora:rank=4", "fpt") == [*members("lean"), "lora:rank=4"]
    for name in members("peft"):
        assert METHODS[name].count is not METHODS["full"].count


def test_of_a_group_those_run_that_the_backbone_can_have() -> None:
    variants, notes = choose_variants(["prompts", "full"], (), "resnet18")
    assert [one.name for one in variants] == ["full"]
    assert notes[0].startswith("prompts methods but these run on resnet18: vpt, vpt_shallow, as it has no token")
    with pytest.raises(UserError, match="methods must be at least one, got none: prompts methods but these run on"):
        choose_variants(["prompts"], (), "resnet18")


def test_a_name_that_is_a_groups_too_is_the_groups(stand_in: None) -> None:
    variants, notes = choose_variants(["peft"], (), TINY)
    found = [one.name for one in variants]
    assert found == [name if name != "peft" else "peft:OFT" for name in members("peft")] and len(found) > 10
    assert notes == ["peft stands for a group of methods; the method of that name is asked for like peft:OFT"]
    assert names("peft:IA3") == ["peft:IA3"]
    with pytest.raises(UserError, match="methods must give options to a method, got 'lean:OFT'"):
        names("lean:OFT")


def test_a_plugin_is_in_groups_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = dataclasses.replace(METHODS["full"], name="mine")
    monkeypatch.setitem(METHODS, "mine", mine)
    assert members("plugins") == ["mine"] and "mine" not in members("peft")


def test_stored_settings_are_found_by_names_groups_and_variants() -> None:
    assert is_asked_for(["all"], "lora", {}) and is_asked_for(["low_rank"], "lora", {"rank": 4})
    assert is_asked_for(["lora"], "lora", {"rank": 4}) and not is_asked_for(["lean"], "lora", {})
    assert is_asked_for(["lora:rank=4|8"], "lora", {"rank": 8, "alpha": 1.0})
    assert not is_asked_for(["lora:rank=4"], "lora", {"rank": 8}) and not is_asked_for(["lora:rank=4"], "lora", {})
    with pytest.raises(UserError, match="did you mean lora"):
        is_asked_for(["loar"], "lora", {})


@pytest.mark.parametrize(
    ("options", "title"),
    [
        ({}, "LoRA"),
        ({"rank": 4}, "LoRA (rank 4)"),
        (
            {"rank": 4, "layers": [3, 5], "bias": False, "start": None},
            "LoRA (rank 4, layers 3-5, bias off, start default)",
        ),
        ({"text": "a,b", "lr": 1e-05, "other": "010"}, "LoRA (text a,b, lr 1e-05, other 010)"),
    ],
)
def test_a_name_and_its_title_say_the_same(options: dict[str, Any], title: str) -> None:
    assert title_of(variant_name("lora", options), TITLES) == title
    assert title_of("gone:x=1", TITLES) == "gone (x 1)"


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (None, "null"), ("1e3", '"1e3"'), ("3-11", "3-11")])
def test_what_is_more_than_text_is_quoted_where_it_is_text(value: Any, text: str) -> None:
    assert option_text(value) == text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a dataset, and a backbone of one block; no GPU is seen."""
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def plan(*words: str) -> Plan:
    shared = ["--datasets", "images", "--weights", "none", "--backbone", f"{TINY}[depth=2]", "--res", "32"]
    return make_plan(options_of(*shared, "--batch-size", "4", *words))


def test_a_variant_is_the_run_that_set_makes_of_it(folder: Path) -> None:
    (by_set,) = plan("--methods", "lora", "--set", "lora.rank=8").runs
    first, variant, last = plan("--methods", "lora:rank=4|8", "lora", "--set", "lora.alpha=16").runs
    assert variant.config == by_set.config and variant.config.run_id == by_set.config.run_id
    assert [run.title.partition(" ")[0] for run in (first, variant, last)] == ["lora:rank=4", "lora:rank=8", "lora"]
    assert len({run.config.run_id for run in (first, variant, last)}) == 3


def test_every_variant_has_trials_of_its_own(folder: Path) -> None:
    cells = plan("--methods", "lora:rank=4|8", "--lr", "grid").cells
    assert len(cells) == 2 and all(len(cell.trials) == 5 for cell in cells)
    assert len({run.config.run_id for cell in cells for run in (*cell.trials, *cell.runs)}) == 12
    with pytest.raises(UserError, match=r"lr must stand with lora:lr=0\.1 or be given by --lr, got both"):
        plan("--methods", "lora:lr=0.1", "--lr", "grid")
    assert [run.config.lr for run in plan("--methods", "lora:lr=0.1|0.2").runs] == [0.1, 0.2]


def test_a_suite_file_holds_variants_and_what_is_typed_wins(folder: Path) -> None:
    Path("s.yaml").write_text(
        "methods:\n- full\n- lora:rank=4|8\n- vpt:dropout=0,num_prompt_tokens=2\nset: [lora.alpha=2, vpt.lr=0.1]\n"
    )
    full, small, large, vpt = plan("--suite", "s.yaml").runs
    assert (full.name, small.name, large.name) == ("full", "lora:rank=4", "lora:rank=8")
    assert (vpt.name, vpt.config.lr) == ("vpt:num_prompt_tokens=2,dropout=0.0", 0.1)
    (lora,) = plan("--suite", "s.yaml", "--methods", "lora:rank=2").runs
    assert lora.config.options["alpha"] == 2.0  # of the file, for the method; what is of vpt does not matter
    assert {run.name for run in plan("--suite", "s.yaml", "--methods", "prompts").runs} >= {"vpt"}


def test_a_dry_run_and_preload_name_variants(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--methods", "fpt:keep_ratio=0.2|0.5", "linear", "--datasets", "images", "--weights", "none"]
    words += ["--backbone", f"{TINY}[depth=2]", "--res", "32", "--batch-size", "4", "--dry-run", "--verbose"]
    words += ["--results", "r"]
    assert bench.main([*words, "--cache", "c"]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == ["linear", "fpt:keep_ratio=0.2", "fpt:keep_ratio=0.5"]
    assert bench.main(["preload", *words, "--format", "csv"]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]] == rows


def test_commands_without_runs_name_variants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--backbone", f"{TINY}[depth=1]", "--cache", str(tmp_path), "--format", "csv"]
    wanted = ["lora:rank=4", "lora:rank=8"]
    asked = ["--methods", "lora:rank=4|8"]
    assert bench.main(["params", *asked, *shared[:2], *shared[4:]]) == 0
    counts = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["method"] for row in counts] == wanted
    assert 2 * int(counts[0]["trainable"]) == int(counts[1]["trainable"]) > 0
    assert bench.main(["memory", "--predict", *asked, "--res", "32", *shared]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(dict.fromkeys(row["method"] for row in rows)) == wanted
    fit = ["fit", *asked, "--res", "32", "--precision", "fp32", "--grad-checkpointing", "off"]
    assert bench.main([*fit, *shared]) == 0
    assert [row["method"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == wanted


def test_list_shows_ideas_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["list", "--format", "json"]) == 0
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["linear"]["idea"], rows["linear"]["groups"]) == ("probes", "lean, peft")
    assert (rows["full"]["idea"], rows["full"]["groups"], rows["lora"]["groups"]) == ("full", "", "peft")


def test_a_point_is_named_as_its_variant() -> None:
    assert MemoryPoint("lora", 32, options=(("rank", 4),)).variant == "lora:rank=4"
    assert MemoryPoint("lora", 32).variant == "lora"
