"""Images normalised as in the backbone's pretraining: in features, records and commands that repeat it."""

import json
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import timm
from bench_process import TINY, options_of
from inside import finish_inside
from safetensors.torch import save_file
from tiny_images import make_images

from benchmarks.analysis.summary import summary
from benchmarks.model.spec import parse_spec
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import load_records
from benchmarks.report.missing_runs import commands
from benchmarks.suite.plan import make_plan

HALF = [[0.5] * 3, [0.5] * 3]  # of augreg's weights
BACKBONE = "vit_tiny_patch16_224[depth=1,embed_dim=48,pool=avg]"
LINEAR = (*TINY, "--methods", "linear", "--epochs", "1", "--backbone", BACKBONE)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder and records of two runs that differ in their normalisation alone: the dataset's, the backbone's."""
    folder = tmp_path_factory.mktemp("normalised")
    make_images(folder / "images")
    with patch("benchmarks.commands.run.show_results", return_value=0):  # tables and plots are not the point
        for flags in ((), ("--normalization", "backbone")):
            ended = finish_inside(folder, *LINEAR, *flags)
            assert ended.returncode == 0, ended.stderr
    records, _ = load_records(folder / "results")
    return folder, sorted(records, key=lambda record: record["run"]["config"]["normalization"] is not None)


def test_the_record_says_which_it_was(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    own, other = (record["run"] for record in stored[1])
    assert (own["config"]["normalization"], other["config"]["normalization"]) == (None, HALF)
    assert own["dataset"]["normalization"]["source"] == "computed"
    assert other["dataset"]["normalization"] == {"mean": HALF[0], "std": HALF[1], "source": "backbone"}
    assert own["backbone"] == other["backbone"]
    assert own["backbone"] == {
        "family": "ViT", "pool": "avg", "patch_size": 16, "stride": 16, "num_features": 48,
    }  # fmt: skip


def test_the_two_share_no_features(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, records = stored
    caches = [record["measurements"]["preload"]["cache"] for record in records]
    assert len({*caches}) == 2
    files = [(folder / ".cache" / "features" / name / "cache.json").read_text() for name in caches]
    own, other = (json.loads(text.partition("\n")[2])["key"] for text in files)  # behind a line with its digest
    assert other["normalization"] == HALF != own["normalization"]
    assert own | {"normalization": HALF} == other


def test_the_command_for_a_missing_seed_repeats_it(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    table = summary(runs_frame(stored[1]))
    assert table["block"].nunique() == 2
    lines = []
    for _, block in table.groupby("block", sort=False):
        block = block.assign(seeds=["0 1"])  # another method has a second
        lines += commands(block)
    read = [options_of(*shlex.split(line)[2:]) for line in lines]
    assert {options.whole_backbone for options in read} == {BACKBONE}
    assert {options.normalization for options in read} == {"dataset", "backbone"}


def test_a_folders_backbone_is_run_by_timms_name_with_its_own_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    network = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2, num_classes=0)
    (tmp_path / "model").mkdir()
    save_file(network.state_dict(), tmp_path / "model" / "model.safetensors")
    described = {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 1, "embed_dim": 24, "num_heads": 2}}
    cfg = {"input_size": [3, 224, 224], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "model" / "config.json").write_text(json.dumps({**described, "pretrained_cfg": cfg}))
    flags = [*TINY, "--methods", "lora", "--backbone", "local-dir:model", "--pool", "avg", "--weights", "hub"]
    (run,) = make_plan(options_of(*flags, "--normalization", "backbone")).runs
    assert run.config.normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert run.config.backbone.startswith("vit_tiny_patch16_224[depth=1,") and "model" not in run.config.backbone
    assert (run.config.weights, run.weights.path) == ("file", tmp_path / "model" / "model.safetensors")
    assert not run.weights.fallback and parse_spec(run.config.backbone).pool == "avg"
