"""Memory counters, measured: a GPU's peaks per phase, what the driver reports, and the host's peak."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pynvml
import torch

from benchmarks.choices import PHASES
from benchmarks.errors import MachineError, one_line

BUSY_BYTES = 256 * 2**20  # in use on a GPU whose processes NVML hides: above this it is taken to be busy


class Driver(Protocol):
    """What the meter asks of the driver about one GPU; `NvmlDriver` asks NVML."""

    def name(self) -> str: ...
    def used_bytes(self) -> int: ...
    def processes(self) -> dict[int, int | None]: ...
    def joules(self) -> float: ...


class NvmlDriver:
    """One GPU through NVML, without creating a CUDA context.

    Args:
        device: A CUDA device.

    Raises:
        MachineError: There is no NVIDIA driver.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            pynvml.nvmlInit()
            # The one place in torch that knows how CUDA_VISIBLE_DEVICES maps to NVML's numbers.
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda._get_nvml_device_index(device.index or 0))
        except (pynvml.NVMLError, RuntimeError, IndexError) as error:
            raise MachineError(f"device must be an NVIDIA GPU with its driver, got {str(device)!r}: {error}") from error

    def name(self) -> str:
        """The GPU's name, as `NVIDIA H100 80GB HBM3`."""
        return str(_asked(pynvml.nvmlDeviceGetName, self._handle))

    def version(self) -> str:
        """The driver's version."""
        return str(_asked(pynvml.nvmlSystemGetDriverVersion))

    def used_bytes(self) -> int:
        """Memory in use on the whole GPU, without what the driver reserves for itself."""
        return int(_asked(pynvml.nvmlDeviceGetMemoryInfo, self._handle, version=pynvml.nvmlMemory_v2).used)

    def joules(self) -> float:
        """Energy that the whole GPU has used since the driver was loaded; GPUs before Volta do not count it."""
        return float(_asked(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)) / 1000

    def processes(self) -> dict[int, int | None]:
        """Memory of every process on the GPU; None where the driver does not say. Containers may hide processes."""
        listed = [
            *_asked(pynvml.nvmlDeviceGetComputeRunningProcesses, self._handle),
            *_asked(pynvml.nvmlDeviceGetGraphicsRunningProcesses, self._handle),
        ]
        return {process.pid: process.usedGpuMemory for process in listed}


def _asked(question: Callable[..., Any], *about: Any, **more: Any) -> Any:
    """The driver's answer.

    Raises:
        MachineError: It gives none, as for what this GPU does not support.
    """
    try:
        return question(*about, **more)
    except pynvml.NVMLError as error:
        raise MachineError(f"driver must answer {question.__name__}, got {error}") from error


def open_driver(device: torch.device) -> NvmlDriver | None:
    """The driver of a GPU, or None where NVML does not work."""
    try:
        return NvmlDriver(device)
    except RuntimeError:
        return None


def check_idle(driver: Driver) -> None:
    """Checks that no other process holds memory on the GPU; to be called before the first CUDA call.

    Raises:
        MachineError: Another process does, or the GPU's memory is in use though NVML shows no process.
    """
    others = {pid: size for pid, size in driver.processes().items() if pid != os.getpid()}
    used = driver.used_bytes()
    if others or used > BUSY_BYTES:
        shown = ", ".join(f"process {pid}" for pid in others) or "processes that NVML hides"
        raise MachineError(
            f"GPU must be free of other processes, got {used / 2**20:,.0f} MiB in use by {shown}: "
            "end them, or measure all the same with --allow-busy"
        )


class PhaseMemory:
    """Measures the peaks of each phase on a GPU; on a CPU it measures nothing.

    What the driver does not answer is left out, with a note: nothing ends for want of it.

    A phase may be entered many times (training and evaluation alternate): its peak is the highest of all. On entry the
    allocator's unused segments go back to the driver, so that what is reserved is the phase's own.

    Make it before the first CUDA call: where NVML hides processes, the process's memory is the growth of the GPU's.

    Args:
        device: The run's device.
        driver: Asked about the GPU; NVML where there is one, by default.
        note: Takes a line where the driver gives no answer.

    Attributes:
        current: The phase that runs, or that an error broke off; None between phases.
        phases: For each completed phase `peak_allocated_bytes`, `peak_reserved_bytes` and `peak_process_bytes`, the
            last None where there is no driver to ask.
        process_source: `process` where NVML knows the process's memory, `device delta` where it hides processes.
    """

    def __init__(
        self, device: torch.device, driver: Driver | None = None, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self.device, self.note = device, note
        self.current: str | None = None
        self.phases: dict[str, dict[str, int | None]] = {}
        self.process_source: str | None = None
        self._driver, self._counts_energy = driver, True
        if device.type == "cuda" and driver is None:
            self._driver = open_driver(device)
        self._used_before = self._ask(lambda driver: driver.used_bytes()) or 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures what runs inside as part of phase `name`."""
        assert name in PHASES
        self.current = name
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # it waits itself where it gives something back
            torch.cuda.reset_peak_memory_stats(self.device)
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.add({name: self._peaks()})
        self.current = None

    def current_peaks(self) -> dict[str, int | None] | None:
        """The peaks of the phase under way, so far; None on a CPU."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize(self.device)
        return self._peaks()

    def _peaks(self) -> dict[str, int | None]:
        reserved = torch.cuda.max_memory_reserved(self.device)
        return {
            "peak_allocated_bytes": torch.cuda.max_memory_allocated(self.device),
            "peak_reserved_bytes": reserved,
            # The driver keeps no peak; what a process holds besides the allocator's segments hardly changes.
            "peak_process_bytes": self._process_bytes(reserved - torch.cuda.memory_reserved(self.device)),
        }

    def add(self, phases: Mapping[str, Mapping[str, int | None]]) -> None:
        """Takes in the peaks of phases that were measured before: the higher ones count."""
        for name, counts in phases.items():
            before = self.phases.get(name, {})
            self.phases[name] = {
                key: max(filter(None, (count, before.get(key))), default=None) for key, count in counts.items()
            }

    def _process_bytes(self, returned: int) -> int | None:
        """The process's memory as the driver reports it, and what the allocator has `returned` since the peak."""
        own = self._ask(lambda driver: driver.processes().get(os.getpid()))
        source = "device delta" if own is None else "process"
        if own is None and (used := self._ask(lambda driver: driver.used_bytes())) is not None:
            own = used - self._used_before
        if own is None:
            return None
        self.process_source = source
        return returned + own

    def joules(self) -> float | None:
        """What the GPU's counter of energy shows; None on a CPU, and where the driver does not count."""
        if self._driver is None or not self._counts_energy:
            return None
        try:
            return self._driver.joules()
        except MachineError as error:
            self.note(f"energy is not measured: {one_line(error)}")
            self._counts_energy = False
            return None

    def _ask(self, question: Callable[[Driver], int | None]) -> int | None:
        """The driver's answer; None where there is no driver or, from the first time on, it fails."""
        if self._driver is None:
            return None
        try:
            return question(self._driver)
        except MachineError as error:
            self.note(f"memory of the process is not measured from here on: {one_line(error)}")
            self._driver = None
            return None

    def record(self) -> dict[str, Any] | None:
        """The measured peaks as records hold them; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return {"source": "measured", "process_source": self.process_source, "phases": self.phases}


def host_peak_bytes() -> int:
    """This process's peak resident memory on the host."""
    status = Path("/proc/self/status")  # getrusage would count what the parent held when it started us
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
