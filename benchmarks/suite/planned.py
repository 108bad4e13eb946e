"""What a suite has to do, run by run; a process that only hands runs out knows this much, and imports no torch."""

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.config import Places, RunConfig
from benchmarks.model.resolved_weights import Weights


@dataclass(frozen=True)
class PlannedRun:
    """A run that is ready to start.

    Attributes:
        config, places, weights: What it is.
        dataset_label: What the dataset is called where another of the suite has its name.
        variant: Its method with the options that tell it from others of the suite; the method's name where none do.
        tuning: How its learning rate was chosen, for its record; None where it was given.
        stopping: The rule that asked for its seed, for its record; None where no rule did.
    """

    config: RunConfig
    places: Places
    weights: Weights
    tuning: dict[str, Any] | None = None
    dataset_label: str = ""
    variant: str = ""
    stopping: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The method as tables of commands and progress call it."""
        return self.variant or self.config.method

    @property
    def title(self) -> str:
        """What it is, for people."""
        config = self.config
        trial = f" trial lr {config.lr:g}" if config.trial and config.lr is not None else ""
        dataset = self.dataset_label or config.dataset
        labels = "" if config.is_whole else f" {config.train_labels}"
        return f"{self.name} {dataset}{labels} {config.resolution} px seed {config.seed}{trial}"


def process_kind(run: PlannedRun) -> str | None:
    """What runs have in common that one process may do one after another; None for one that needs a fresh process.

    They are trials of a method, dataset and resolution, or on a CPU runs of one: all but rate and seed is the same. On
    a GPU the memory of runs is measured, which takes a process of their own; that of trials nobody asks for. A plugin
    may keep what it likes from one run to the next, and so does torch's compiler.
    """
    config = run.config
    on_gpu = config.device_type != "cpu"
    if run.places.plugins or config.compile != "none" or (on_gpu and not config.trial):
        return None
    # Features of random weights are computed for each seed anew, and their memory measured on a GPU.
    seed = config.seed if on_gpu and config.weights_sha256 is None else 0
    return f"{replace(config, seed=seed, lr=None).run_id} {run.places} {run.weights}"


@dataclass(frozen=True)
class Cell:
    """The runs of a method or variant on a dataset at a resolution.

    Attributes:
        trials: A run for each rate of the grid and each seed that chooses; none where the rate is given.
        runs: A run a seed. With trials their rate is the middle of the grid until `benchmarks.suite.tuning` has chosen.
    """

    trials: list[PlannedRun]
    runs: list[PlannedRun]


@dataclass(frozen=True)
class Plan:
    """All runs of a suite, in order, and what the user should know about them, a line each."""

    cells: list[Cell]
    notes: list[str]

    @property
    def trials(self) -> list[PlannedRun]:
        """The trials of all cells."""
        return [run for cell in self.cells for run in cell.trials]

    @property
    def runs(self) -> list[PlannedRun]:
        """The runs of all cells, without the trials."""
        return [run for cell in self.cells for run in cell.runs]
