"""Experiment trackers, for those who use one: what a run measures goes there too, beside its record. Off by default.

Their packages are not required; a tracker that fails while a run trains is left out, with a note, and the run goes on.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from benchmarks.choices import one_of
from benchmarks.errors import UserError


class Tracker(Protocol):
    """Takes what a run measures."""

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Numbers of an epoch, from 1, by name."""

    def finish(self, values: Mapping[str, float]) -> None:
        """The final numbers; nothing comes after them."""


class TensorBoard:
    """Writes event files into `tensorboard/<run>` in the results folder."""

    def __init__(self, results: Path, run_id: str, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(results / "tensorboard" / run_id))
        self.writer.add_text("config", "\n".join(f"- {key}: {value}" for key, value in config.items()))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def finish(self, values: Mapping[str, float]) -> None:
        self.log(values, 0)
        self.writer.close()


class MLflow:
    """Logs to where MLFLOW_TRACKING_URI says, else into `mlflow.db` in the results folder."""

    def __init__(self, results: Path, run_id: str, config: Mapping[str, Any]) -> None:
        import mlflow

        self.mlflow: Any = mlflow
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{results / 'mlflow.db'}")
        mlflow.set_experiment("fine-tuning benchmark")
        mlflow.start_run(run_name=run_id)
        mlflow.log_params(dict(config))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self.mlflow.log_metrics(dict(values), step=epoch)

    def finish(self, values: Mapping[str, float]) -> None:
        self.mlflow.log_metrics(dict(values))
        self.mlflow.end_run()


class WandB:
    """Logs to Weights & Biases, as its own variables say; its files go into `wandb` in the results folder."""

    def __init__(self, results: Path, run_id: str, config: Mapping[str, Any]) -> None:
        import wandb

        self.run: Any = wandb.init(
            project="fine-tuning-benchmark", id=run_id, name=run_id, config=dict(config), dir=results, resume="allow"
        )

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self.run.log(dict(values), step=epoch)

    def finish(self, values: Mapping[str, float]) -> None:
        self.run.summary.update(dict(values))
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def check_tracker(name: str) -> str:
    """Checks that a tracker can be used.

    Raises:
        UserError: There is no such tracker, or its package is not installed.
    """
    one_of("tracker", TRACKERS, name)
    if importlib.util.find_spec(name) is None:
        raise UserError(f"tracker must be installed, got {name!r}: pip install {name}")
    return name


class Tracking:
    """A run's tracker, or none; never the end of the run.

    Args:
        name: Of the tracker; None for none.
        results: The results folder.
        run_id: The run.
        config: Its settings.
        note: Takes a line where the tracker fails.
    """

    def __init__(
        self, name: str | None, results: Path, run_id: str, config: Mapping[str, Any], note: Callable[[str], None]
    ) -> None:
        self.name, self.note = name, note
        self.tracker: Tracker | None = None
        if name is not None:
            self.tracker = self._try(lambda: TRACKERS[name](results, run_id, config))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Numbers of an epoch."""
        tracker = self.tracker
        if tracker is not None:
            self._try(lambda: tracker.log(values, epoch))

    def finish(self, record: Mapping[str, Any]) -> None:
        """The test metrics of a record."""
        tracker, test = self.tracker, record["measurements"].get("test") or {}
        if tracker is not None:
            values = {f"test_{name}": value for name, value in test.items() if isinstance(value, float)}
            self._try(lambda: tracker.finish(values))

    def _try(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # whatever a tracker's package raises
            self.note(f"{self.name} is left out from here on: {' '.join(str(error).split())}")
            self.tracker = None
            return None
