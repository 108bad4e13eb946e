"""Reading a file of weights: what published checkpoints hold beside tensors, and what no checkpoint may ask for."""

import argparse
import pathlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.errors import UserError
from benchmarks.model.checkpoint import read_checkpoint

TENSOR = torch.arange(3.0)


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


BESIDE: dict[str, Any] = {
    "namespace": argparse.Namespace(lr=1e-3, data="images", epochs=[1, 2]),
    "path": argparse.Namespace(output=pathlib.PosixPath("/data/out")),
    "numpy-scalar": np.float64(0.5),
    "numpy-float32": np.float32(0.5),
    "numpy-int": np.int64(3),
    "numpy-array": np.arange(4, dtype=np.float32),
    "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("beside", BESIDE)
def test_options_and_numbers_beside_the_weights_are_read_over(tmp_path: Path, beside: str, legacy: bool) -> None:
    path = tmp_path / "model.pth"
    content = {"model": {"a": TENSOR, "step": 3}, "other": BESIDE[beside]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(path)
    assert checkpoint.state.keys() == {"a"} and torch.equal(checkpoint.state["a"], TENSOR)
    assert checkpoint.wrappers == ("model",)


@pytest.mark.parametrize("value", [np.float64(0.5), np.arange(4)])
def test_numbers_of_numpy_1_are_read_over(tmp_path: Path, value: object) -> None:
    """It wrote the names of modules that NumPy 2 has moved."""
    path = tmp_path / "model.pth"
    torch.save({"model": {"a": TENSOR}, "best": value}, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != path.read_bytes()
    path.write_bytes(old)
    assert torch.equal(read_checkpoint(path).state["a"], TENSOR)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Call(print, "x"), "print"),
        (Call(eval, "1"), "eval"),
        (Call(pickle.loads, b"N."), "pickle.loads"),
        (Call(np.load, "x.npy"), "numpy.load"),
        (Call(torch.load, "x.pth"), "torch.serialization.load"),
        (Call(pathlib.Path.cwd), "getattr"),
    ],
)
def test_a_name_that_could_run_a_program_is_refused_by_name(
    tmp_path: Path, payload: Call, name: str, legacy: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": {"a": TENSOR}, "x": payload}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert str(error.value) == (
        f"weights must be a safetensors file or a checkpoint of tensors, got {str(path)!r}: it asks for {name}, which "
        "could run a program; save it again as safetensors"
    )
    assert capsys.readouterr().out == ""


def test_nothing_stays_allowed_after_reading(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())  # in no order
    torch.save({"a": TENSOR}, tmp_path / "model.pth")
    read_checkpoint(tmp_path / "model.pth")
    assert set(torch.serialization.get_safe_globals()) == before and argparse.Namespace not in before


NO_WEIGHTS = {
    "page": (
        b"\n<!DOCTYPE html><html><body>Log in</body></html>",
        r"it is a web page; open it to see what the page asks",
    ),
    "html": (b"<HTML>404</HTML>", r"it is a web page; open it"),
    "empty": (b"", r"the file is empty; download it again"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        r"it is a pointer of git-lfs; fetch the weights themselves with `git lfs pull`",
    ),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_a_failed_download_leaves_is_told(tmp_path: Path, kind: str, suffix: str) -> None:
    content, message = NO_WEIGHTS[kind]
    (tmp_path / f"model{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=rf"weights must be a safetensors file or a checkpoint .*{suffix}': {message}"):
        read_checkpoint(tmp_path / f"model{suffix}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "it holds no tensors under names"),
        ({"model": {"a": 3}}, "it holds no tensors under names"),
        ({3: TENSOR}, "it holds no tensors under names"),
        ([TENSOR], "it holds a list in the place of a state dict"),
        (TENSOR, "it holds a Tensor in the place of a state dict"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match=rf"a checkpoint of tensors, got .*: {reason}; save it again as safetensors"):
        read_checkpoint(tmp_path / "model.pth")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match="it holds a dict in the place of a state dict"):
        read_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("content", "wrappers"),
    [
        ({"student": {"a": -TENSOR}, "teacher": {"a": TENSOR}}, ("teacher",)),
        ({"model": {"a": -TENSOR}, "model_ema": {"a": TENSOR}}, ("model_ema",)),
        ({"state_dict": {"a": -TENSOR}, "state_dict_ema": {"a": TENSOR}}, ("state_dict_ema",)),
        ({"state_dict": {"a": -TENSOR}, "ema": {"a": TENSOR}}, ("ema",)),
        ({"student": {"a": TENSOR}, "epoch": 3}, ("student",)),
        ({"module": {"a": TENSOR}}, ("module",)),
        ({"encoder": {"module.a": TENSOR}, "predictor": {"a": -TENSOR}}, ("encoder",)),
        ({"model": {"state_dict": {"a": TENSOR}}}, ("model", "state_dict")),
        ({"model": None, "a": TENSOR}, ()),
        ({"_orig_mod.module.a": TENSOR}, ()),
    ],
)
def test_the_averaged_model_comes_out_of_what_wraps_it(
    tmp_path: Path, content: object, wrappers: tuple[str, ...]
) -> None:
    torch.save(content, tmp_path / "model.pth")
    checkpoint = read_checkpoint(tmp_path / "model.pth")
    assert checkpoint.wrappers == wrappers
    assert checkpoint.state.keys() == {"a"} and torch.equal(checkpoint.state["a"], TENSOR)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_single(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"a": TENSOR.to(dtype), "count": torch.tensor(3)}, tmp_path / "model.pth")
    state = read_checkpoint(tmp_path / "model.pth").state
    assert state["a"].dtype == torch.float32 and torch.equal(state["a"], TENSOR)
    assert state["count"].dtype == torch.int64


def test_no_module_is_loaded_by_reading(tmp_path: Path) -> None:
    """A name is looked up among those allowed, never imported."""
    path = tmp_path / "model.pth"
    torch.save({"a": TENSOR, "x": Call(print, "x")}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"__builtin__\nprint", b"antigravity\nopen_"))
    with pytest.raises(UserError, match="it asks for "):
        read_checkpoint(path)
    assert "antigravity" not in sys.modules
