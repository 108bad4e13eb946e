"""The plan: every default resolved, everything worth knowing noted, every mistake found before the first run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from bench_process import options_of
from tiny_images import make_images

from benchmarks.errors import UserError
from benchmarks.model.backbone import BACKBONES
from benchmarks.model.named import NamedBackbone
from benchmarks.suite.devices import resolve_device, resolve_devices
from benchmarks.suite.plan import make_plan
from benchmarks.suite.planned import Plan
from datasets import DATASETS
from methods import METHODS

TINY = "--methods fpt lora --datasets images --weights none --backbone vit_tiny_patch16_224 --res 32 --batch-size 4"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a dataset `images` in it; no GPU is seen."""
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return tmp_path


def plan(arguments: str) -> Plan:
    return make_plan(options_of(*arguments.split()))


def test_every_default_is_resolved() -> None:
    lora, fpt = plan(TINY).runs  # in the order of the table
    config = fpt.config
    assert (config.method, config.dataset, config.resolution, config.seed) == ("fpt", "images", 32, 0)
    assert (config.epochs, config.lr, config.weight_decay) == (20, 2e-3, METHODS["fpt"].config().weight_decay)
    assert (config.precision, config.attention, config.device_type) == ("fp32", "sdpa", "cpu")
    assert (config.weights, config.weights_sha256, config.grad_checkpointing) == ("none", None, False)
    assert config.options["keep_ratio"] == 0.2 and "lr" not in config.options
    assert lora.config.options["rank"] == 16
    assert (fpt.config.preload, lora.config.preload) == (True, False)
    assert fpt.places.device == "cpu" and Path(fpt.places.dataset).is_absolute()
    assert fpt.weights.source == "none" and not fpt.weights.fallback


def test_what_is_asked_for_is_what_runs() -> None:
    flags = (
        "--epochs 3 --lr 0.5 --precision bf16 --attention eager --grad-checkpointing --preload off --set lora.rank=2 "
        "--warmup-epochs 2 --decay-all --resample-patch-embed"
    )
    for run in plan(f"{TINY} {flags}").runs:
        config = run.config
        assert (config.epochs, config.lr, config.batch_size) == (3, 0.5, 4)
        assert (config.precision, config.attention, config.grad_checkpointing) == ("bf16", "eager", True)
        assert (
            not config.preload and (config.warmup_epochs, config.decay_all) == (2, True) and config.resample_patch_embed
        )
        assert config.options.get("rank", 2) == 2


def test_the_grid_is_every_combination_once() -> None:
    runs = plan(f"{TINY} --methods lora lora fpt --res 32 48 32 --seeds 0 1 0").runs
    cells = [(run.config.resolution, run.config.method, run.config.seed) for run in runs]
    assert cells == [(res, method, seed) for res in (32, 48) for method in ("lora", "fpt") for seed in (0, 1)]
    assert len({run.config.run_id for run in runs}) == 8


def test_all_stands_for_every_method() -> None:
    assert [run.config.method for run in plan(f"{TINY} --methods all --set knn.num_neighbours=1").runs] == list(METHODS)


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    run = plan(TINY).runs[0]
    assert (run.places.device, run.config.device_type, run.config.precision) == ("cuda:0", "cuda", "bf16")
    assert [resolve_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda:0", "cuda:1"]
    assert resolve_devices(["auto"]) == ["cuda:0"]
    assert resolve_devices(["auto"], 2) == resolve_devices(["cuda:0", "cuda:1"]) == ["cuda:0", "cuda:1"]
    assert resolve_devices(["cpu"], 3) == ["cpu"] * 3
    for names, jobs in ((["auto"], 3), (["cuda:0"], 2), (["cuda:0", "cuda:1"], 1)):
        with pytest.raises(ValueError, match=r"jobs must be ., as many as there are GPUs"):
            resolve_devices(names, jobs)
    for names in (["cuda", "cuda:0"], ["cpu", "cuda:0"], ["cpu", "cpu"]):
        with pytest.raises(ValueError, match="device must be cpu or GPUs that differ"):
            resolve_devices(names)
    with pytest.raises(RuntimeError, match=r"device must be one of 2 GPUs seen here, got 'cuda:2'"):
        resolve_device("cuda:2")


def test_a_resolution_between_patches_is_noted() -> None:
    flags = "--methods linear --datasets images --weights none --backbone vit_small_patch14_dinov2 --batch-size 4"
    made = plan(f"{flags} --res 512 448")
    assert made.notes == ["512 px is no multiple of vit_small_patch14_dinov2's patch size 14: runs at 518 px"]
    assert [run.config.resolution for run in made.runs] == [512, 448]


def test_without_a_prepared_dataset_the_demo_runs_and_is_noted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.demo.COUNTS", {"train": 4, "val": 2, "test": 2})
    made = plan(TINY.replace("--datasets images ", ""))
    assert {run.config.dataset for run in made.runs} == {"demo"}
    assert any("using demo, synthetic images that are not clinical data" in note for note in made.notes)


def test_prepared_datasets_are_the_default(folder: Path) -> None:
    make_images(folder / "data" / "covid", DATASETS["covid"].classes)
    made = plan(TINY.replace("--datasets images ", ""))
    assert {run.config.dataset for run in made.runs} == {"covid"} and made.notes == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--methods fpd", r"method must be one of full, .*, got 'fpd'; did you mean fpt\?"),
        ("--datasets covids", r"covids"),
        (
            "--backbone vit_tiny_patch16_225",
            r"backbone must be a model of timm .*, got 'vit_tiny_patch16_225'; nearest: vit_tiny_patch16_224",
        ),
        ("--backbone dinov3", r"got 'dinov3'; nearest: vit_\w+_dinov3"),
        (
            "--backbone vit_tiny_patch16_224.dino",
            r"tag of vit_tiny_patch16_224 must be one of timm's \(augreg_in21k_ft_in1k, augreg_in21k\), got 'dino'",
        ),
        (
            "--backbone resnet50",
            r"backbone must suit fpt, got 'resnet50', which has no token sequence; choose another --backbone or leave",
        ),
        ("--pool max", r"pool must be one of native, cls, avg, cls\+avg, got 'max'"),
        ("--backbone-arg depth", r"backbone argument must be like depth=24, got 'depth'"),
        (
            "--backbone vit_tiny_patch16_224[pool=avg] --pool cls",
            r"backbone arguments must each be given once, got 'pool' twice",
        ),
        ("--normalization imagenet", r"normalization must be one of dataset, backbone, got 'imagenet'"),
        ("--weights hubb", r"weights"),
        ("--batch-size 11", r"batch size must be at most the 10 training images of images, got 11; choose a smaller"),
        ("--warmup-epochs 20", r"warmup epochs must be fewer than the 20 epochs, got 20; choose a smaller --warmup-"),
        ("--warmup-epochs -1", r"warmup_epochs must be at least 0, got '-1'"),
        ("--res 15", r"resolution must be at least 16 px, a patch of the backbone, got 15"),
        ("--set rank=8", r"set must be like lora\.rank=8, got 'rank=8'"),
        ("--set lora.rank", r"set must be like lora\.rank=8, got 'lora\.rank'"),
        ("--set vpt.dropout=0", r"set must name a method of this suite \(fpt, lora\), got 'vpt\.dropout=0'"),
        ("--set lora.ranks=8", r"option of lora must be one of lr, .*rank.*, got 'ranks'"),
        ("--set lora.rank=many", r"rank of lora must be a whole number, at least 1, got 'many'"),
        ("--set lora.rank=0", r"rank of lora must be a whole number, at least 1, got 0"),
        ("--set lora.lr=0", r"lr of lora must be a number, above 0, got 0"),
        ("--set lora.weight_decay=-1", r"weight_decay of lora must be a number, at least 0, got -1"),
        ("--set lora.alpha=.inf", r"alpha of lora must be a number, above 0, got inf"),
        ("--set lora.dropout=1", r"dropout of lora must be a number, at least 0 and below 1, got 1"),
        ("--set fpt.keep_ratio=2", r"keep_ratio of fpt must be a number, above 0 and at most 1, got 2"),
        (
            "--set fpt.feature_dtype=float64",
            r"feature_dtype of fpt must be one of float16, float32, int8, got 'float64'",
        ),
        ("--set fpt.side_reduction=1000", r"side_reduction must leave a width divisible by 3 heads, got 0 \(an option"),
        (
            "--set fpt.side_patch_size=15",
            r"side_resolution must be a multiple of side_patch_size 15, got 224 \(an option",
        ),
        (
            "--methods vpt --set vpt.num_prompt_tokens=0",
            r"num_prompt_tokens of vpt must be a whole number, at least 1, go",
        ),
        (
            "--methods adapter --set adapter.reduction=1000",
            r"reduction must be at most 192, the backbone's width, got 1000",
        ),
        (
            "--res 512 16",
            r"keep_ratio must keep a token of 2, got 0\.2; choose a resolution of at least 32 px, or a larger",
        ),
        (
            "--set fpt.keep_ratio=0.02040816326530612",  # a 49th: of 49 tokens, floating-point numbers leave none
            r"keep_ratio must keep a token of 5, got 0\.0204.*; choose a resolution of at least 112 px",
        ),
        (
            "--methods lora vpt --preload on",
            r"preload on must have a method with frozen features \(linear, fpt, fpt_plus, .*\), got lora, vpt; leave",
        ),
        ("--device gpu", r"device must be auto, cpu, cuda or cuda:<n>, got 'gpu'"),
        ("--device cuda:x", r"device must be auto, cpu, cuda or cuda:<n>, got 'cuda:x'"),
        ("--device cpu:1", r"device must be auto, cpu, cuda or cuda:<n>, got 'cpu:1'"),
        ("--device cuda", r"device must be one of 0 GPUs seen here, got 'cuda'; use cpu"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_run(flags: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError, RuntimeError), match=message) as error:
        plan(f"{TINY} {flags}")
    assert "\n" not in str(error.value)


def test_nothing_is_read_or_downloaded_for_options_that_cannot_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: object) -> None:
        pytest.fail("data or weights were asked for")

    monkeypatch.setattr("benchmarks.suite.plan.open_dataset", touched)
    monkeypatch.setattr("benchmarks.suite.plan.resolve_weights", touched)
    for flags in ("--set lora.rank=0", "--set fpt.side_reduction=1000", "--res 16"):
        with pytest.raises(ValueError, match="must"):
            plan(f"{TINY} {flags}")


def test_the_resolution_that_is_named_as_the_smallest_runs() -> None:
    for ratio, smallest in ((0.2, 32), (0.02, 112), (1 / 49, 112), (1.0, 16)):
        words = f"{TINY} --set fpt.keep_ratio={ratio} --res"
        assert plan(f"{words} {smallest}").runs
        if smallest > 16:
            with pytest.raises(ValueError, match=f"choose a resolution of at least {smallest} px"):
                plan(f"{words} {smallest - 16}")


def test_preload_on_says_which_methods_have_nothing_to_preload() -> None:
    made = plan(f"{TINY} --methods fpt linear lora full --preload on")
    assert made.notes == ["--preload on is of fpt, linear alone: lora, full have nothing to preload"]
    assert {run.config.method: run.config.preload for run in made.runs} == {
        "full": False, "linear": True, "lora": False, "fpt": True,
    }  # fmt: skip
    for quiet in ("--methods fpt linear --preload on", "--preload auto", "--preload off"):
        assert plan(f"{TINY} {quiet}").notes == []


def test_no_method_at_all_is_a_mistake() -> None:
    with pytest.raises(
        ValueError, match=r"methods must be named, e\.g\. --methods fpt lora, or --methods all, got none"
    ):
        plan("--datasets images")


def test_a_backbone_with_settings_is_one_name() -> None:
    name = "--backbone vit_tiny_patch16_224"
    for flags in (
        f"{name}[depth=2] --pool avg",
        f"{name} --backbone-arg depth=2 --pool avg",
        f"{name}[pool=avg,depth=2]",
    ):
        assert {run.config.backbone for run in plan(f"{TINY} {flags}").runs} == {
            "vit_tiny_patch16_224[depth=2,pool=avg]"
        }


def test_the_normalisation_is_the_datasets_unless_asked_otherwise(folder: Path) -> None:
    for quiet in ("", "--normalization dataset"):
        assert {run.config.normalization for run in plan(f"{TINY} {quiet}").runs} == {None}
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for backbone, expected in (
        ("vit_tiny_patch16_224", ((0.5,) * 3, (0.5,) * 3)),  # augreg
        ("vit_small_patch16_224.dino", imagenet),
        ("vit_small_patch16_224.augreg_in1k", ((0.5,) * 3, (0.5,) * 3)),
    ):
        flags = f"{TINY} --methods lora --backbone {backbone} --normalization backbone"
        assert [run.config.normalization for run in plan(flags).runs] == [expected]


def test_an_unknown_normalisation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(**size: Any) -> torch.nn.Module:
        return timm.create_model("vit_tiny_patch16_224", depth=2, **size)

    flags = f"{TINY} --methods lora --backbone mine --normalization backbone"
    monkeypatch.setitem(BACKBONES, "mine", NamedBackbone("mine", create))
    with pytest.raises(
        UserError, match=r"must have a backbone whose mean and std are known, got 'mine'; state both in"
    ):
        plan(flags)
    monkeypatch.setitem(BACKBONES, "mine", NamedBackbone("mine", create, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    assert plan(flags).runs[0].config.normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_new_option_counts_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [run.config.run_id for run in plan(TINY).runs]
    new: Any = ("rank_dropout", float, dataclasses.field(default=0.0, metadata={"later": True}))
    config = dataclasses.make_dataclass("Config", [new], bases=(METHODS["lora"].config,), frozen=True)
    monkeypatch.setitem(METHODS, "lora", dataclasses.replace(METHODS["lora"], config=config))
    for setting in ("rank_dropout=0", "dropout=0"):
        assert [run.config.run_id for run in plan(f"{TINY} --set lora.{setting}").runs] == before
    lora, fpt = plan(f"{TINY} --set lora.rank_dropout=0.1").runs
    assert lora.config.run_id != before[0] and fpt.config.run_id == before[1]
    assert lora.config.method_settings()["rank_dropout"] == 0.1
