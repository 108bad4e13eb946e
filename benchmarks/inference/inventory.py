"""What models there are, and their removal; torch is not asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.records.record import kept_models, model_path


@dataclass(frozen=True)
class StoredModel:
    """A kept model on disk.

    Attributes:
        run_id: Of its run.
        num_bytes: Its size.
        changed: When it was written, in seconds since 1970.
    """

    run_id: str
    num_bytes: int
    changed: float


def stored_models(results: Path) -> list[StoredModel]:
    """All models in a results folder, by run."""
    return [_describe(model_path(results, run_id), run_id) for run_id in kept_models(results)]


def _describe(path: Path, run_id: str) -> StoredModel:
    status = path.stat()
    return StoredModel(run_id, status.st_size, status.st_mtime)


def remove_models(results: Path, models: Sequence[StoredModel]) -> None:
    """Removes models; the records of their runs stay."""
    for model in models:
        model_path(results, model.run_id).unlink(missing_ok=True)
