"""The devices that a suite runs on: one process each."""

from collections.abc import Sequence

import torch

from benchmarks.errors import MachineError, UserError
from benchmarks.suite.options import SuiteOptions


def devices_of(options: SuiteOptions) -> list[str]:
    """A device for each process of a suite.

    Raises:
        UserError: They do not fit together, or a GPU is not there.
    """
    if options.launcher == "slurm":
        assert options.slurm is not None
        return [options.slurm.device]
    return resolve_devices(options.device, options.jobs)


def resolve_devices(names: Sequence[str], jobs: int | None = None) -> list[str]:
    """A device for each process of a suite.

    Args:
        names: `auto`, `cpu`, `cuda`, `cuda:<n>`, or several GPUs.
        jobs: How many processes; by default one a device.

    Raises:
        UserError: No such kind of device, or the number of processes does not fit.
        MachineError: A GPU asked for is not there.
    """
    if list(names) == ["auto"] and torch.cuda.is_available():
        names = [f"cuda:{index}" for index in range(min(jobs or 1, torch.cuda.device_count()))]
    devices = [resolve_device(name) for name in names]
    if devices == ["cpu"]:
        devices *= jobs or 1
    elif len(set(devices)) < len(devices) or "cpu" in devices:
        raise UserError(f"device must be cpu or GPUs that differ, got {' '.join(names)!r}")
    if jobs not in (None, len(devices)):
        raise UserError(
            f"jobs must be {len(devices)}, as many as there are GPUs to run on (memory and time are measured, so each "
            f"GPU has one run at a time), got {jobs}; name GPUs with --device, or leave --jobs out"
        )
    return devices


def resolve_device(name: str) -> str:
    """The device to run on: `auto` is the first GPU where there is one.

    Raises:
        UserError: No such kind of device.
        MachineError: The GPU asked for is not there.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UserError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise MachineError(f"device must be one of {torch.cuda.device_count()} GPUs seen here, got {name!r}; use cpu")
    return "cpu" if kind == "cpu" else f"cuda:{index or 0}"
