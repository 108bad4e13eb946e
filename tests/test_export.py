"""bench.py export: timm's checkpoints and ONNX that compute what the model does, and refusals where there is none."""

import json
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import timm
import torch
from bench_process import TINY
from inside import finish_inside
from safetensors import safe_open
from safetensors.torch import load_file
from small_backbones import ALL, KINDS, NARROW, ONE_BRANCH, SMALL, WITH_SIDE_VIT, make_parts, reason
from tiny_images import make_images
from torch.export import ExportedProgram

from benchmarks.errors import MissingError, UserError
from benchmarks.inference.export import Exportable, export_merged, export_onnx, exported, random_images
from benchmarks.inference.trained import TrainedModel, load_run
from benchmarks.model.backbone import described
from benchmarks.model.build import Parts
from benchmarks.model.method_config import make_config
from benchmarks.records.record import kept_models
from methods import METHODS

WHOLE = ("full", "linear", "lora", "bitfit")  # of which a network of timm is left
# Methods that leave parts of their own, which no network of timm has, or tensors that are no weights of one.
PARTED = {
    *("vpt", "vpt_shallow", "adapter", "fpt", "fpt_plus", "adaptformer", "houlsby", "adapter_plus", "difffit"),
    *("convpass", "ep", "attentive_probe", "vqt", "synqt", "side_tuning", "lst", "res_tuning_bypass", "unipt"),
    *("dtl", "dtl_plus", "head2toe", "knn", "simpleshot", "peft"),
}
NO_BIASES = {(family, "repadapter") for family in ("eva02, apart", "beit", "swinv2")}  # into which a shift would go
UNMERGED = {"hra": "fake tensor"}  # peft makes a tensor in its forward pass that torch.export cannot follow


def stub(family: str, method: str, merge: bool) -> TrainedModel:
    """A model as it would be loaded, without a training; `awake` weights, so that all of it is heard."""
    parts, _ = make_parts(family, method)
    options = NARROW.get(method, {}) | ({"side_resolution": 32, "side_reduction": 2} if method in WITH_SIDE_VIT else {})
    config = make_config(method, options)
    recipe = METHODS[method].recipe(parts.model, config, 1)
    if merge and recipe.before_inference is not None:
        parts = Parts(recipe.before_inference(parts.model), parts.extractor)
    side = 4 * described(ALL[family]).stride
    card = {
        "config": {
            **{"method": method, "dataset": "images", "dataset_digest": "", "resolution": side, "seed": 0},
            **{"backbone": ALL[family], "weights": "none", "weights_sha256": None, "epochs": 1, "batch_size": 2},
            **{"lr": 1e-3, "weight_decay": 0.0},
        },
        "dataset": {"classes": ["a", "b", "c"], "normalization": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}},
        "input": {"views": METHODS[method].views(config, side)},
    }
    return TrainedModel(card, parts, torch.device("cpu"))


def logits(model: TrainedModel, images: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return model(dict(zip(model.sides, images, strict=True)))


def same_for_three_images(model: TrainedModel) -> ExportedProgram:
    """A model as torch writes it down, which was traced with another number of images."""
    program = exported(model)
    images = random_images(model.sides, 3, model.device)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*images), logits(model, images), atol=1e-4, rtol=1e-4)
    return program


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.gradient_free])
def test_every_method_is_written_down_by_torch_for_any_number_of_images(method: str) -> None:
    model = stub("augreg", method, merge=False)
    if method in UNMERGED:
        with pytest.raises(UserError, match=f"that torch.export can write down, got {method} .*{UNMERGED[method]}"):
            exported(model)
    else:
        same_for_three_images(model)


@pytest.fixture(scope="module")
def graphs() -> set[str]:
    """Those that are known to be written: what is merged leaves the same network for many methods."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_merged_is_written_down_by_torch_and_each_kind_of_network_as_onnx(
    method: str, tmp_path: Path, graphs: set[str]
) -> None:
    model = stub("augreg", method, merge=True)
    program = same_for_three_images(model)
    if (graph := str(program.graph)) not in graphs:
        with patch("benchmarks.inference.export.exported", lambda _: program):
            assert export_onnx(model, tmp_path / "model.onnx") < 1e-4
    graphs.add(graph)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), [("resnet50", "full"), ("dinov3", "fpt")])
def test_families_are_written_as_onnx(family: str, method: str, tmp_path: Path) -> None:
    model = stub(family, method, merge=True)
    with torch.no_grad():
        largest = float(logits(model, random_images(model.sides, 3, model.device)).abs().max())
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4 * max(1.0, largest)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    make_images(root / "images")
    backbone = ["--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "1"]
    small = ["--set", "fpt.side_resolution=32", "fpt.side_reduction=2"]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        assert finish_inside(root, "--methods", *WHOLE, "fpt", *TINY, *backbone, *small).returncode == 0
    return root


def run_of(folder: Path, method: str) -> str:
    (run_id,) = [run_id for run_id in kept_models(folder / "results") if f"-{method}-" in run_id]
    return run_id


@pytest.mark.parametrize("method", WHOLE)
def test_a_merged_checkpoint_is_timms(folder: Path, method: str) -> None:
    run_id = run_of(folder, method)
    said = finish_inside(folder, "export", run_id, "--merged")
    assert (said.returncode, said.stdout) == (0, f"results/exports/{run_id}.merged.safetensors\n")
    path = folder / said.stdout.strip()
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["card"])
    about, statistics = card["timm"], card["dataset"]["normalization"]
    assert card["run_id"] == run_id and about["num_classes"] == 2
    network = timm.create_model(
        about["name"], num_classes=about["num_classes"], img_size=about["side"], **about["args"]
    ).eval()
    network.load_state_dict(load_file(path))
    model = load_run(folder / "results", run_id)
    images = random_images(model.sides, 3, model.device)
    mean, std = (torch.tensor(statistics[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        found = network((images[0] / 255 - mean) / std)
    torch.testing.assert_close(found, logits(model, images), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"), [(family, method) for family in KINDS for method in METHODS if not reason(family, method)]
)
def test_every_method_that_merges_leaves_a_network_of_timm(family: str, method: str, tmp_path: Path) -> None:
    """And every other is refused; the file alone gives the logits of the model, unmerged where it has such a form."""
    model, path = stub(family, method, merge=True), tmp_path / "merged.safetensors"
    if method in PARTED or (family, method) in NO_BIASES:
        with pytest.raises(UserError, match=f"must be a network of timm with a head, got {method}, which has or needs"):
            export_merged(model, path)
        return
    export_merged(model, path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["card"])["timm"]
    network = timm.create_model(about["name"], num_classes=3, **sized(family, about["side"]), **about["args"]).eval()
    network.load_state_dict(load_file(path))
    images = random_images(model.sides, 3, model.device)
    mean, std = (torch.tensor(model.card["dataset"]["normalization"][name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        found, expected = network((images[0] / 255 - mean) / std), logits(stub(family, method, merge=False), images)
    torch.testing.assert_close(found, expected, atol=1e-4 * max(1.0, float(expected.abs().max())), rtol=0)


def sized(family: str, side: int) -> dict[str, int]:
    """What timm asks of networks that are made for one size of images."""
    return {} if family in ONE_BRANCH else {"img_size": side}


def test_what_cannot_be_merged_is_refused_in_one_line(folder: Path) -> None:
    said = finish_inside(folder, "export", run_of(folder, "fpt"), "--merged")
    assert said.returncode == 2 and "with a head, got fpt, which has or needs other parts (" in said.stderr
    assert said.stderr.strip().endswith("export it with --onnx")
    assert not list((folder / "results").glob("exports/*-fpt-*"))
    for method in ("vpt", "ssf", "adapter"):
        model = stub("augreg", method, merge=False)
        with pytest.raises(UserError, match=f"must be a network of timm with a head, got {method}"):
            export_merged(model, folder / "gone.safetensors")
    assert not (folder / "gone.safetensors").exists()


def test_onnx_gives_the_logits_and_holds_the_card(folder: Path) -> None:
    import onnx
    import onnxruntime

    run_id = run_of(folder, "fpt")
    said = finish_inside(folder, "export", run_id, "--onnx", "--out", "made/fpt.onnx")
    assert (said.returncode, said.stdout) == (0, "made/fpt.onnx\n"), said.stderr
    assert [path.name for path in (folder / "made").iterdir()] == ["fpt.onnx"]
    model = load_run(folder / "results", run_id)
    paths = sorted((folder / "images/test").rglob("*.png"))
    views = {name: view.numpy() for name, view in model.read(paths).items()}
    session = onnxruntime.InferenceSession(folder / "made/fpt.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], views)
    torch.testing.assert_close(torch.from_numpy(found), model(model.read(paths)), atol=1e-4, rtol=0)
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "made/fpt.onnx").metadata_props}
    assert json.loads(metadata["card"])["run_id"] == run_id


def test_what_is_another_program_is_refused(folder: Path, tmp_path: Path) -> None:
    model = load_run(folder / "results", run_of(folder, "bitfit"))

    def others(self: Exportable, *images: torch.Tensor) -> torch.Tensor:
        return plain(self, *images) + (0 if torch.compiler.is_exporting() else 1)

    plain = Exportable.forward
    with patch.object(Exportable, "forward", others), pytest.raises(UserError, match=r"ONNX must give the logits of"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    with patch.dict(sys.modules, onnxscript=None), pytest.raises(MissingError, match="pip install onnxscript"):
        export_onnx(model, tmp_path / "model.onnx")


def test_out_must_be_a_file_that_can_be_written(folder: Path) -> None:
    said = finish_inside(folder, "export", run_of(folder, "bitfit"), "--merged", "--out", "images")
    assert said.returncode == 2 and "out must be a file, got the folder 'images'" in said.stderr
    said = finish_inside(folder, "export", run_of(folder, "bitfit"))
    assert said.returncode == 2 and "one of the arguments --merged --onnx is required" in said.stderr
    shutil.rmtree(folder / "results/exports", ignore_errors=True)
