"""Where a run took place: machine, packages and the state of our code."""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
# The rooms that decide a number: what trains, measures or predicts.
ROOMS = ("training", "model", "data", "features", "memory", "images")
CODE = (
    *("methods/**/*.py", "benchmarks/config.py", "benchmarks/suite/run.py"),
    *(f"benchmarks/{room}/**/*.py" for room in ROOMS),
)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Machine, driver and package versions; what a GPU alone has is None on a CPU."""
    on_gpu = device.type == "cuda"
    return {
        "device": device_name(device),
        "device_type": device.type,
        "gpu_uuid": str(torch.cuda.get_device_properties(device).uuid) if on_gpu else None,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "driver": driver_version() if on_gpu else None,
        "cuda": torch.version.cuda if on_gpu else None,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32 if on_gpu else None,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32 if on_gpu else None,
        "torch": torch.__version__,
        "timm": version("timm"),
        "peft": version("peft"),
        "python": platform.python_version(),
        "host": platform.node(),
        "os": platform.platform(),
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or `CPU`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def cpu_name() -> str:
    """The processor's name as Linux gives it, else Python's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def driver_version() -> str:
    """Version of the NVIDIA driver."""
    import pynvml

    pynvml.nvmlInit()
    driver = pynvml.nvmlSystemGetDriverVersion()
    return driver.decode() if isinstance(driver, bytes) else str(driver)


def describe_code() -> dict[str, Any]:
    """Version, commit and whether tracked files differ from it; commit and dirty are None outside a git clone."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"version": _own_version(), "commit": commit, "dirty": None if changes is None else bool(changes)}


def _own_version() -> str:
    import tomllib

    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", os.fspath(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def code_digest() -> str:
    """SHA-256 of the code that trains, measures and predicts, by file name and content."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in ROOT.glob(pattern)):
        content = path.read_bytes()
        total.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return total.hexdigest()


CODE_DIGEST = code_digest()  # as it is imported: a later change of a file does not reach this process
