"""Where a run took place: machine, packages and the state of our code."""

import ast
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.privacy import host_id

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
# Files and rooms that decide the numbers of a training whatever its method; the method's own come on top.
TRAINS = (
    *("methods/contract.py", "benchmarks/config.py", "benchmarks/tasks.py", "benchmarks/suite/run.py"),
    *(f"benchmarks/{room}/" for room in ("training", "model", "data", "features", "images")),
)
PREDICTS = (*TRAINS, "methods/", "benchmarks/memory/")


def describe_environment(device: "torch.device", record_host: bool = False) -> dict[str, Any]:
    """Machine, driver and package versions; what a GPU alone has is None on a CPU.

    Args:
        device: Where it ran.
        record_host: Whether the machine is named too.
    """
    import torch

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
        **describe_host(record_host),
        "os": platform.platform(),
    }


def describe_host(record_host: bool) -> dict[str, str]:
    """What tells this machine from others, and its name where that is asked for."""
    return {"host_id": host_id()} | ({"host": platform.node()} if record_host else {})


def device_name(device: "torch.device") -> str:
    """The GPU's name, or `CPU`."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def cpu_name() -> str:
    """The processor's name as Linux gives it, else Python's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def num_cores() -> int:
    """Cores that this process may use; all of them where the system cannot say, as on macOS and Windows."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def driver_version() -> str | None:
    """Version of the NVIDIA driver; None where it does not say."""
    import pynvml

    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return None
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


def read_sources(root: Path = ROOT) -> dict[str, bytes]:
    """Our code, by file name below the root."""
    paths = sorted(path for folder in ("benchmarks", "methods") for path in (root / folder).rglob("*.py"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


_SOURCES = read_sources()  # as it is imported: a later change of a file does not reach this process


def code_digest(parts: tuple[str, ...], sources: dict[str, bytes] = _SOURCES) -> str:
    """SHA-256 of some of our code, by file name and content.

    Args:
        parts: Names of files, and of folders with a slash behind.
        sources: What `read_sources` gives.
    """
    total = hashlib.sha256()
    for name, content in sources.items():
        if name.startswith(parts):
            total.update(f"{name} {len(content)}\n".encode() + content)
    return total.hexdigest()


def trained_by(module: str) -> dict[str, str | None]:
    """Digests of the code that trains in this process.

    Args:
        module: Of the method.

    Returns:
        `digest`, of what all methods share, and `method_digest`, of the method's own files; None for a plugin's, whose
        digest is part of the run's settings.
    """
    own = method_files(module)
    return {"digest": code_digest(TRAINS), "method_digest": code_digest(own) if own else None}


def method_files(module: str, sources: dict[str, bytes] = _SOURCES) -> tuple[str, ...]:
    """The file of a module of `methods` and those of `methods` that it imports, directly or not.

    So an edit of one method, or a new one, is no change of the others. The table of methods imports them all, and is
    left out.
    """
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop().replace(".", "/")
        for file in {f"{name}.py", f"{name}/__init__.py"} & (sources.keys() - found - {"methods/__init__.py"}):
            found.add(file)
            waiting += _imported(sources[file])
    return tuple(sorted(found))


def _imported(source: bytes) -> Iterator[str]:
    """Names that may be modules; those of a package are told from what it defines by their files."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


CODE_DIGEST = code_digest(PREDICTS)
