"""Experiment trackers, for those who use one: what a run measures goes there too, beside its record. Off by default.

Their packages are not required; a tracker that fails while a run trains is left out, with a note, and the run goes on.
A run that goes on after it was stopped goes on there too, and no epoch is there twice.
"""

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from benchmarks.choices import one_of
from benchmarks.errors import UserError
from benchmarks.privacy import host_id

# What trackers take of a machine and its user unless they are told otherwise: names, paths, the repository.
_MLFLOW_TAGS = {"mlflow.user": "unknown", "mlflow.source.name": "bench.py"}
_WANDB_SETTINGS = {"x_disable_meta": True, "x_disable_machine_info": True, "disable_git": True, "disable_code": True}
TRACKED = ("loss", "lr", "val_auc", "images_per_second")  # of each epoch


class Tracker(Protocol):
    """Takes what a run measures; made at its first epoch, which is not 1 where the run goes on after it was stopped."""

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Numbers of an epoch, from 1, by name."""

    def finish(self, values: Mapping[str, float]) -> None:
        """The final numbers; nothing comes after them."""


class TensorBoard:
    """Writes event files into `tensorboard/<run>` in the results folder."""

    def __init__(self, results: Path, run_id: str, config: Mapping[str, Any], epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # From this step on, what is there from before is hidden; the final numbers, at 0, are of a run that ended.
        purge = epoch if epoch > 1 else 0
        folder = results / "tensorboard" / run_id
        goes_on = epoch > 1 and folder.exists()
        _wait_for_next_name(folder)
        with _without_host():
            self.writer = SummaryWriter(str(folder), purge_step=purge)
        if not goes_on:
            self.writer.add_text("config", "\n".join(f"- {key}: {value}" for key, value in config.items()))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def finish(self, values: Mapping[str, float]) -> None:
        self.log(values, 0)
        self.writer.close()


def _wait_for_next_name(folder: Path) -> None:
    """Sleeps while a new event file could be read before one that is there: names, by which TensorBoard orders them,
    begin with the second, then a process and a counter that are no order."""
    newest = max((int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")), default=0)
    while int(time.time()) == newest:
        time.sleep(0.05)


@contextlib.contextmanager
def _without_host() -> Iterator[None]:
    """Has TensorBoard put the machine's digest into the name of a file, where it puts its name and asks nobody."""
    from tensorboard.summary.writer import event_file_writer

    sockets, module = event_file_writer.socket, vars(event_file_writer)
    module["socket"] = SimpleNamespace(gethostname=host_id)
    try:
        yield
    finally:
        module["socket"] = sockets


class MLflow:
    """Logs to where MLFLOW_TRACKING_URI says, else into `mlflow.db` in the results folder."""

    def __init__(self, results: Path, run_id: str, config: Mapping[str, Any], epoch: int) -> None:
        import mlflow

        self.mlflow: Any = mlflow
        self.last_logged = 0
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{results / 'mlflow.db'}")
        experiment = mlflow.set_experiment("fine-tuning benchmark").experiment_id
        if epoch == 1 or not self._go_on(experiment, run_id):
            mlflow.start_run(run_name=run_id, tags=_MLFLOW_TAGS)
            mlflow.log_params(dict(config))

    def _go_on(self, experiment: str, run_id: str) -> bool:
        """Takes up the newest run of that name, if there is one, behind the last epoch that it has."""
        named, client = f"attributes.run_name = '{run_id}'", self.mlflow.MlflowClient()
        for run in client.search_runs([experiment], named, order_by=["attributes.start_time DESC"], max_results=1):
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, TRACKED[0])]
            self.last_logged = max(steps, default=0)
            self.mlflow.start_run(run_id=run.info.run_id)
            return True
        return False

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        if epoch > self.last_logged:  # nothing can be taken back: an epoch that is done again is the same one
            self.mlflow.log_metrics(dict(values), step=epoch)

    def finish(self, values: Mapping[str, float]) -> None:
        self.mlflow.log_metrics(dict(values))
        self.mlflow.end_run()


class WandB:
    """Logs to Weights & Biases, as its own variables say; its files go into `wandb` in the results folder."""

    def __init__(self, results: Path, run_id: str, config: Mapping[str, Any], epoch: int) -> None:
        import wandb

        self.run: Any = wandb.init(
            project="fine-tuning-benchmark", id=run_id, name=run_id, config=dict(config), dir=results, resume="allow",
            settings=_WANDB_SETTINGS | {"host": host_id()},
        )  # fmt: skip

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self.run.log(dict(values), step=epoch)

    def finish(self, values: Mapping[str, float]) -> None:
        self.run.summary.update(dict(values))
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]] = {
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
        self.about = (results, run_id, config)

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Numbers of an epoch, those of `TRACKED`."""
        tracker = self._opened(epoch)
        if tracker is not None:
            self._try(lambda: tracker.log({name: values[name] for name in TRACKED}, epoch))

    def finish(self, record: Mapping[str, Any]) -> None:
        """The test metrics of a record."""
        test = record["measurements"].get("test") or {}
        without_epochs = bool(test) and self.about[2].get("epochs", 0) is None
        tracker = self._opened(1) if without_epochs else self.tracker
        if tracker is not None:
            values = {f"test_{name}": value for name, value in test.items() if isinstance(value, float)}
            self._try(lambda: tracker.finish(values))

    def _opened(self, epoch: int) -> Tracker | None:
        name = self.name
        if name is not None and self.tracker is None:
            self.tracker = self._try(lambda: TRACKERS[name](*self.about, epoch))
        return self.tracker

    def _try(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # whatever a tracker's package raises
            self.note(f"{self.name} is left out from here on: {' '.join(str(error).split())}")
            self.name = self.tracker = None
            return None
