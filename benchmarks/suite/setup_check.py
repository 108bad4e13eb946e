"""What this set-up is - versions, devices, caches, disk, optional programs - and what is wrong with it."""

import importlib.util
import os
import platform
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from benchmarks.environment import ROOT, cpu_name, describe_code, driver_version, num_cores
from benchmarks.errors import UserError, one_line
from benchmarks.storage.files import check_writable
from benchmarks.storage.folders import files_below

GIB = 2**30
LEAST_FREE = 5 * GIB  # features of a small suite, or a few kept models
OPTIONAL_PACKAGES = ("tensorboard", "mlflow", "wandb", "bitsandbytes", "captum", "onnxruntime", "onnxscript", "pyarrow")
OPTIONAL_PROGRAMS = {
    "TeX": ("lualatex", "pdflatex"),
    "SLURM": ("sbatch",),
    "git": ("git",),
    "nvidia-smi": ("nvidia-smi",),
}
CPU_WAITING = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")
ALLOCATOR = ("LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@dataclass(frozen=True)
class Problem:
    """Something wrong with the set-up.

    Attributes:
        what: What is wrong.
        mend: The line, or the deed, that mends it.
    """

    what: str
    mend: str


@dataclass(frozen=True)
class Setup:
    """The facts by section and name, and what is wrong."""

    facts: dict[str, dict[str, Any]]
    problems: list[Problem]


def inspect(results: Path, cache: Path, data_root: Path) -> Setup:
    """Looks at everything.

    Args:
        results: The results folder.
        cache: The folder of caches.
        data_root: The folder of prepared datasets.
    """
    packages, wrong_packages = check_packages(required_packages(), installed_version)
    gpus, wrong_gpus = _gpus()
    folders = {"results": results, "cache": cache, "data": data_root}
    disk, wrong_disk = _disk(folders)
    facts = {
        "versions": {**_own(), **packages},
        "GPU": gpus,
        "CPU": _cpu(),
        "folders": {name: str(path.absolute()) for name, path in folders.items()},
        "results": _results(results),
        "caches": _caches(cache),
        "disk": disk,
        "optional": {**_programs(), **{name: installed_version(name) or "not installed" for name in OPTIONAL_PACKAGES}},
    }
    return Setup(facts, [*wrong_packages, *wrong_gpus, *wrong_disk])


def required_packages() -> list[Requirement]:
    """What pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"]]


def installed_version(name: str) -> str | None:
    """Of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_packages(wanted: list[Requirement], found: Any) -> tuple[dict[str, str], list[Problem]]:
    """Versions of packages by name, and a problem for each that is missing or too old.

    Args:
        wanted: What must be there.
        found: Gives the version of a package by its name, or None.
    """
    versions, problems = {}, []
    for requirement in wanted:
        here = found(requirement.name)
        versions[requirement.name] = here or "not installed"
        if here is None or not requirement.specifier.contains(here, prereleases=True):
            what = f"{requirement.name} must be {requirement.specifier or 'installed'}, got {here or 'none'}"
            problems.append(Problem(what, "make environment"))
    return versions, problems


def _own() -> dict[str, Any]:
    code = describe_code()
    commit = f"{code['commit'] or 'no clone'!s:.12}{', edited' if code['dirty'] else ''}"
    return {
        "benchmark": f"{code['version']} ({commit})",
        "python": platform.python_version(),
        "os": platform.platform(),
    }


def _gpus() -> tuple[dict[str, Any], list[Problem]]:
    """GPUs as torch and the driver see them; they need not see the same."""
    if importlib.util.find_spec("torch") is None:
        return {"torch": "not installed"}, []
    import torch

    driver = driver_version()
    facts: dict[str, Any] = {"CUDA of torch": torch.version.cuda or "none", "driver": driver or "none"}
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            facts[f"GPU {number}"] = f"{name}, {total / GIB:.1f} GiB, {free / GIB:.1f} GiB free"
        return facts, []
    facts["GPUs"] = "none that torch can use"
    return facts, list(_wrong_gpu(driver, torch.version.cuda))


def _wrong_gpu(driver: str | None, cuda: str | None) -> Iterator[Problem]:
    if driver is None:
        return
    if cuda is None:
        yield Problem(
            f"torch must have CUDA where a GPU is (driver {driver}), got its CPU build",
            ".venv/bin/pip install --force-reinstall torch torchvision",
        )
    elif os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        yield Problem("CUDA_VISIBLE_DEVICES must name a GPU, got none: it hides them", "unset CUDA_VISIBLE_DEVICES")
    else:
        yield Problem(
            f"the NVIDIA driver must know CUDA {cuda} of torch, got {driver}, with which torch finds no GPU",
            "a newer driver, or a torch for an older CUDA: https://pytorch.org/get-started/locally",
        )


def _cpu() -> dict[str, Any]:
    import torch

    settings = {name: os.environ[name] for name in (*CPU_WAITING, *ALLOCATOR) if name in os.environ}
    return {
        "name": cpu_name(),
        "cores": f"{num_cores()} of {os.cpu_count()}",
        "threads of torch": torch.get_num_threads(),
        "allocator": settings.pop("LD_PRELOAD", "the system's"),
        "waiting threads": settings.pop("OMP_WAIT_POLICY", "PASSIVE, as runs set it"),
        **settings,
    }


def _results(folder: Path) -> dict[str, Any]:
    count = {name: sum(1 for _ in folder.glob(f"{name}/*.json")) for name in ("runs", "trials")}
    return {"stored runs": count["runs"], "trials": count["trials"]} if folder.is_dir() else {"stored runs": "none"}


def _caches(folder: Path) -> dict[str, Any]:
    shown = {path.name: _size(path) for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return {**shown, "model hub's": _size(hub) if hub.is_dir() else "none"}


def _size(folder: Path) -> str:
    sizes = [path.lstat().st_size for path in files_below(folder)]
    return f"{sum(sizes) / GIB:.2f} GiB in {len(sizes):,} files"


def _disk(folders: Mapping[str, Path]) -> tuple[dict[str, Any], list[Problem]]:
    """Room beside each folder, which may not be made yet, and whether it can be written."""
    facts, problems = {}, []
    for name, folder in folders.items():
        option = {"data": "--data-root"}.get(name, f"--{name}")
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        facts[f"free for {name}"] = f"{free / GIB:,.1f} GiB"
        if free < LEAST_FREE:
            what = f"{name} must have {LEAST_FREE // GIB} GiB free, got {free / GIB:.1f} GiB"
            problems.append(Problem(what, f"python bench.py clean caches --unused, or another {option}"))
        if folder.is_dir() and name != "data":
            try:
                check_writable(folder, name)
            except UserError as error:
                problems.append(Problem(one_line(error), f"another {option}"))
    return facts, problems


def _programs() -> dict[str, str]:
    found = {kind: [name for name in names if shutil.which(name)] for kind, names in OPTIONAL_PROGRAMS.items()}
    return {kind: ", ".join(names) or "not found" for kind, names in found.items()}
