"""Plugins: a method, a dataset and a backbone from files outside the repository, in every process that needs them."""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_process import finish, options_of, records

import bench
from benchmarks import plugins
from benchmarks.errors import UserError
from benchmarks.memory import predict
from benchmarks.memory.point import MemoryPoint
from benchmarks.memory.prediction_cache import predict_point, stored_predictions
from benchmarks.model.backbone import BACKBONES, _family, _network, described
from benchmarks.model.build import build_parts
from benchmarks.suite.plan import make_plan
from datasets import DATASETS
from methods import METHODS

# In the spirit of BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): the biases of the blocks train.
METHOD = """
from dataclasses import dataclass
from typing import ClassVar

from methods.contract import ImageModel, Method, freeze


@dataclass(frozen=True)
class Config:
    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    lr: float = 1e-3
    weight_decay: float = 0.0
    norms: bool = True


def biases(backbone, config):
    return [
        parameter
        for name, parameter in backbone.trunk.blocks.named_parameters()
        if name.endswith("bias") and (config.norms or ".norm" not in name)
    ]


def build(backbone, num_classes, config):
    freeze(backbone)
    for parameter in biases(backbone, config):
        parameter.requires_grad = True
    return ImageModel(backbone, num_classes)


def count(backbone, config):
    return sum(parameter.numel() for parameter in biases(backbone, config))


METHOD = Method("biases", "Biases only", "a test", Config, build, count)
"""
OTHERS = """
import numpy as np
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from benchmarks.model.named import NamedBackbone
from datasets.info import DatasetInfo


def create(img_size=32):
    return VisionTransformer(img_size=img_size, patch_size=8, embed_dim=48, depth=2, num_heads=3)


def generate(root):
    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 4), ("test", 4)):
        for label, low in (("dark", 0), ("bright", 120)):
            (root / split / label).mkdir(parents=True)
            for i in range(number):
                image = rng.integers(low, low + 120, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(image).save(root / split / label / f"{i}.png")


BACKBONE = NamedBackbone("vit_of_mine", create)
DATASET = DatasetInfo(
    "mine", "My images", ("bright", "dark"), (0.5,) * 3, (0.25,) * 3, epochs=2, synthetic=True, generate=generate
)
"""
TINY = ["--backbone", "vit_of_mine", "--weights", "none", "--datasets", "mine", "--res", "32", "--batch-size", "4"]
TINY += ["--device", "cpu", "--epochs", "1"]


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test loads is gone behind it."""
    tables: list[dict[Any, Any]] = [METHODS, DATASETS, BACKBONES, plugins._LOADED]
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    for cache in (described, _family, _network):
        cache.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "biases.py").write_text(METHOD)
    (tmp_path / "others.py").write_text(OTHERS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.process
def test_they_run_like_those_of_the_repository_and_the_record_tells(folder: Path) -> None:
    ended = finish(folder, "--methods", "biases", "linear", *TINY, "--plugin", "biases.py", "others.py")
    assert ended.returncode == 0, ended.stderr
    assert "Biases only" in ended.stdout and "Biases only" in (folder / "results/tables/results.md").read_text()
    both = {name: digest(folder / name) for name in ("biases.py", "others.py")}
    stored = records(folder / "results")
    assert stored["biases"]["run"]["code"]["method_digest"] is None
    assert stored["biases"]["run"]["plugins"] == stored["linear"]["run"]["plugins"] == both
    assert stored["biases"]["run"]["config"]["plugins"] == [list(item) for item in sorted(both.items())]
    assert stored["linear"]["run"]["config"]["plugins"] == [["others.py", both["others.py"]]]
    assert stored["biases"]["measurements"]["predicted_memory"]["phases"]["train"]["peak_allocated_bytes"] > 0


def test_a_plugins_backbone_is_known_with_settings_behind_its_name(folder: Path) -> None:
    plugins.load_plugins([folder / "others.py"])
    assert plugins.digests_of("lora", "vit_of_mine[pool=avg]") == {"others.py": digest(folder / "others.py")}
    assert plugins.digests_of("lora", "vit_of_mine_too") == {}
    assert described("vit_of_mine[pool=avg]").pool == "avg"


def test_a_plugins_create_gets_its_size_alone(folder: Path) -> None:
    """Also where the network is of a family that timm's are made of with arguments beside."""
    create = (
        "def create(**size):\n    assert set(size) <= {'img_size'}, size\n    return Eva(**{'img_size': 32} | size, "
    )
    create += "patch_size=8, embed_dim=48, depth=2, num_heads=3, use_rot_pos_emb=True)\n"
    head = "from timm.models.eva import Eva\nfrom benchmarks.model.named import NamedBackbone\n"
    (folder / "eva.py").write_text(f'{head}{create}BACKBONE = NamedBackbone("eva_of_mine", create)\n')
    plugins.load_plugins([folder / "eva.py"])
    parts = build_parts("lora", METHODS["lora"].config(), "eva_of_mine", 2, 64)
    assert described("eva_of_mine").family == "Eva" and parts.model.backbone.trunk.patch_embed.grid_size == (8, 8)  # type: ignore[union-attr]


def test_a_head_that_would_not_compute_in_fp32_is_refused(folder: Path) -> None:
    own = "model = ImageModel(backbone, num_classes)\n    model.head = nn.Linear(192, num_classes)\n    return model"
    text = "from torch import nn\n" + METHOD.replace("return ImageModel(backbone, num_classes)", own)
    (folder / "biases.py").write_text(text)
    plugins.load_plugins([folder / "biases.py"])
    with pytest.raises(UserError, match=r"head of biases must be a methods\.contract\.Head .*, got Linear; make"):
        build_parts("biases", METHODS["biases"].config(), "vit_tiny_patch16_224", 2, 32)


def test_a_method_with_nothing_to_train_is_refused_unless_it_says_so(folder: Path) -> None:
    frozen = METHOD.replace("parameter.requires_grad = True", "pass")
    (folder / "biases.py").write_text(frozen)
    plugins.load_plugins([folder / "biases.py"])
    with pytest.raises(
        UserError, match="biases must have parameters to train beside its head, got none with these opt"
    ):
        build_parts("biases", METHODS["biases"].config(), "vit_tiny_patch16_224", 2, 32)
    said = dataclasses.replace(METHODS["biases"], starts_with_head_alone=True)
    METHODS["biases"] = said
    assert build_parts("biases", said.config(), "vit_tiny_patch16_224", 2, 32).model is not None


def test_every_command_that_takes_them_knows_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = ["--plugin", "biases.py", "--plugin", "others.py"]
    assert bench.main(["list", "methods", "--format", "csv", *loaded]) == 0
    assert "biases" in {row["method"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert bench.main(["list", "datasets", *loaded]) == 0 and "My images" in capsys.readouterr().out
    assert bench.main(["list", "backbones", *loaded]) == 0 and "vit_of_mine" in capsys.readouterr().out
    asked = ["--methods", "biases", "--backbone", "vit_of_mine", "--format", "json", *loaded]
    assert bench.main(["params", "--set", "biases.norms=false", *asked]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["trainable"] == 2 * (3 * 48 + 48 + 4 * 48 + 48)  # qkv, proj, fc1, fc2 of two blocks
    assert bench.main(["memory", "--predict", "--res", "32", *asked]) == 0
    assert all(row["peak_allocated_bytes"] > 0 for row in json.loads(capsys.readouterr().out))
    assert bench.main(["check", "mine", *loaded]) == 0


def test_a_suite_file_may_name_them(folder: Path) -> None:
    (folder / "mine.yaml").write_text("plugins: [biases.py, others.py]\nmethods: biases\ndevice: cpu\nweights: none")
    plan = make_plan(options_of("--suite", "mine.yaml", *TINY))
    (run,) = plan.runs
    assert [path.name for path in run.places.plugins] == ["biases.py", "others.py"]
    assert dict(run.config.plugins) == {name: digest(folder / name) for name in ("biases.py", "others.py")}
    (folder / "biases.py").write_text(METHOD + "\n")
    with pytest.raises(UserError, match=r"plugin must stay as it is while it is in use, got '.*biases\.py' changed"):
        make_plan(options_of("--suite", "mine.yaml", *TINY))


def test_other_content_is_another_run_and_another_prediction(folder: Path) -> None:
    ids, point = [], MemoryPoint("biases", 32, 4, "vit_tiny_patch16_224")
    for content in (METHOD, METHOD + "\n# another version\n"):
        plugins._LOADED.clear()
        METHODS.pop("biases", None)
        (folder / "biases.py").write_text(content)
        plugins.load_plugins([folder / "biases.py"])
        assert stored_predictions([point], folder) == {}
        predict_point(point, folder)
        plan = make_plan(options_of("--methods", "biases", "linear", *TINY, "--plugin", "biases.py", "others.py"))
        ids.append([run.config.run_id for run in plan.runs])
        plugins._LOADED.clear()
        del BACKBONES["vit_of_mine"], DATASETS["mine"]
    (linear, first), (same_linear, second) = ids
    assert linear == same_linear and first != second


@pytest.mark.slow
def test_processes_that_predict_load_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "MANY", 1)
    plugins.load_plugins([folder / "biases.py"])
    (found,) = predict.map_points(predict.predict_memory, [MemoryPoint("biases", 32, 2, "vit_tiny_patch16_224")])
    assert found.phases["train"].allocated > 0


def test_a_plugin_that_changed_meanwhile_fails_the_run(folder: Path) -> None:
    plugins.load_plugins([folder / "biases.py"])
    plugins.check_unchanged([("biases.py", digest(folder / "biases.py"))])
    with pytest.raises(UserError, match=r"plugin biases\.py has changed since this suite started; start it again"):
        plugins.check_unchanged([("biases.py", "ab" * 32)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"plugin must be a Python file, got '.*mine\.py' \(No such file or directory\)"),
        ("x = 1\n", r"plugin must define one of METHOD, DATASET, BACKBONE, got none of them in '.*mine\.py'"),
        ("x = 1\ny = (\n", r"plugin must run, got '.*mine\.py' \(SyntaxError: '\(' was never closed .*, line 2\)"),
        ("import torch\n\ntorch.nope\n", r"plugin must run, got '.*mine\.py' \(AttributeError: .*nope.*, line 3\)"),
        ("import sys\nsys.exit(3)\n", r"plugin must run, got '.*mine\.py' \(SystemExit: 3, line 2\)"),
        ("METHOD = 3\n", r"METHOD of '.*mine\.py' must be a Method, got int"),
        (
            "from methods.low_rank.lora import METHOD\n",
            r"METHOD of '.*mine\.py' must have a name of its own, got 'lora'",
        ),
        (
            OTHERS.replace("vit_of_mine", "vit_base_patch16_384"),
            r"BACKBONE of '.*mine\.py' must have a name of its own, got 'vit_base_patch16_384'",
        ),
    ],
)
def test_a_file_that_is_no_plugin_is_one_line(
    tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    known = [list(METHODS), list(DATASETS), list(BACKBONES)]
    for _ in range(2):  # a failed one leaves nothing behind
        with pytest.raises(UserError, match=message):
            plugins.load_plugins([path])
    assert known == [list(METHODS), list(DATASETS), list(BACKBONES)]
    assert bench.main(["params", "--plugin", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "biases.py").write_text(METHOD)
    plugins.load_plugins([folder / "biases.py"])
    with pytest.raises(UserError, match=r"plugins must have names that differ, got '.*' and '.*elsewhere/biases\.py'"):
        plugins.load_plugins([folder / "elsewhere" / "biases.py"])


READS = METHOD.replace("return ImageModel(", "return Reads(").replace('"biases"', '"reads"').replace(
    "def build(", """class Reads(ImageModel):
    def forward(self, image):
        return super().forward(image) * (1.0 if image.mean().item() < 9 else 2.0)


def build("""
)  # fmt: skip


@pytest.mark.slow
def test_a_method_that_reads_a_value_runs_and_has_no_predicted_memory(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "reads.py").write_text(READS)
    loaded = ["--plugin", "reads.py", "others.py"]
    note = "note: memory of reads_vit_of_mine_32px_b4_fp32_sdpa_c2 cannot be predicted: DataDependentOutputException"
    grid = ["--methods", "reads", "linear", "--backbone", "vit_of_mine", "--precision", "fp32", "--format", "json"]
    for command in ("--predict", "--breakdown"):
        asked = [*grid, "--attention", "sdpa", "--res", "32", "--batch-size", "4", "--num-classes", "2"]
        assert bench.main(["memory", command, *asked, *loaded]) == 0
        out, err = capsys.readouterr()
        assert note in err and {row["method"] for row in json.loads(out)} == {"linear"}
    for memory in ([], ["--gpu-memory", "24GB"]):
        assert bench.main(["fit", *grid, "--res", "32", "--grad-checkpointing", "off", *memory, *loaded]) == 0
        out, err = capsys.readouterr()
        reads, linear = json.loads(out)
        asked_for = {"method", "precision", "attention", "grad_checkpointing"}
        assert "cannot be predicted" in err and {reads[name] for name in reads.keys() - asked_for} == {"-"}
        assert "-" not in linear.values()
    assert bench.main(["run", "--methods", "reads", *TINY, "--dry-run", *loaded]) == 0
    assert "cannot be predicted" in " ".join(capsys.readouterr().err.split())
    ended = finish(folder, "--methods", "reads", *TINY, *loaded)
    assert ended.returncode == 0 and "cannot be predicted: DataDependentOutputException" in ended.stderr
    assert "predicted_memory" not in records(folder / "results")["reads"]["measurements"]
