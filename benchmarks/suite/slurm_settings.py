"""What to ask of SLURM for each job, from the command line or a suite file."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from benchmarks.suite.option_types import OptionModel, as_list, within


def as_mapping(value: Any) -> Any:
    """`KEY=VALUE` of the command line, as the mapping that a suite file has."""
    if isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for key, _, text in (str(item).partition("=") for item in as_list(value)):
        section, _, name = key.partition(".")
        if not text:
            raise ValueError(f"slurm must be like partition=gpu, got {key!r}")
        if section == "sbatch" and name:
            found.setdefault(section, {})[name] = text
        elif key == "setup":
            found.setdefault(key, []).append(text)
        else:
            found[key] = text
    return found


# What a job would break without, or has a key of its own.
_OURS = {
    **{"time": "minutes", "cpus-per-task": "cpus", "mem": "memory", "gres": "gpus"},
    **{name: name for name in ("partition", "constraint", "account", "qos")},
    **dict.fromkeys(("job-name", "array", "dependency", "signal", "output", "error", "open-mode", "wrap")),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node")),
}


def _sbatch_options(value: Any) -> Any:
    """Long names of sbatch's options, each with its value; `true` for one that takes none."""
    if not isinstance(value, Mapping):
        raise ValueError(f"sbatch of slurm must be options of sbatch, like sbatch.reservation=x, got {value!r}")
    for name in map(str, value):
        if not re.fullmatch("[a-z][a-z0-9-]+", name):
            raise ValueError(f"sbatch of slurm must have long names of options, like reservation, got {name!r}")
        if name in _OURS:
            remedy = f"use the key {_OURS[name]}" if _OURS[name] else "leave it out"
            raise ValueError(f"sbatch of slurm must not have what the suite sets itself, got {name!r}; {remedy}")
    found = {str(name): "true" if text is True else text for name, text in value.items()}
    for name, text in found.items():
        if isinstance(text, bool | list | dict | None):
            raise ValueError(f"{name} of sbatch must be a text, a number or true, got {text!r}; or leave it out")
        _one_line(name, str(text))
    return found


def _setup_lines(value: Any) -> Any:
    lines = as_list(value)
    for line in lines:
        _one_line("setup of slurm", str(line))
    return lines


def _one_line(name: str, text: str) -> None:
    if not text.strip() or "\n" in text or "\r" in text:
        raise ValueError(f"{name} must be one line, got {text!r}")


class SlurmSettings(OptionModel):
    """What to ask of SLURM for each run: the section `slurm` of a suite file, or `--slurm KEY=VALUE ...`.

    Attributes:
        minutes: Time limit; a run that needs more is queued again and goes on.
        gpus: 0, 1 or a kind of GPU, like `a100`.
        cpus: CPU cores.
        memory: Of the host, like `32GB`; None for the partition's default.
        partition, constraint, account, qos: As sbatch takes them; None for the cluster's default.
        at_once: At most so many jobs of an array run at once; None for no limit.
        resubmissions: A run is queued again after its time limit so many times.
        signal_seconds: So long before the limit a job is told.
        runs_per_job: So many runs, or trials, are one job, one after another; `minutes` is for all of them.
        setup: Shell commands before a job begins, each of which must succeed.
        sbatch: Further options of sbatch, by their long names; `true` for one that takes no value.
    """

    minutes: Annotated[int, within("minutes")] = Field(description="the time limit of a run, like --slurm minutes=240")
    gpus: str = "1"
    cpus: Annotated[int, within("cpus")] = 8
    memory: str | None = None
    partition: str | None = None
    constraint: str | None = None
    account: str | None = None
    qos: str | None = None
    at_once: Annotated[int, within("at_once")] | None = None
    resubmissions: Annotated[int, within("resubmissions")] = 100
    signal_seconds: Annotated[int, within("signal_seconds")] = 120
    runs_per_job: Annotated[int, within("runs_per_job")] = 1
    setup: Annotated[tuple[str, ...], BeforeValidator(_setup_lines)] = ()
    sbatch: Annotated[dict[str, str], BeforeValidator(_sbatch_options)] = Field(default_factory=dict)

    @property
    def device(self) -> str:
        """Where runs run."""
        return "cpu" if self.gpus == "0" else "cuda:0"
