"""What stands for the folders of a run in what is stored about it."""

from pathlib import Path

from benchmarks.config import Places
from benchmarks.model.resolved_weights import Weights
from benchmarks.privacy import HERE


def known_folders(places: Places, weights: Weights, results: Path) -> dict[Path, str]:
    """By path what stands for it, as `hide_places` takes them: data are named by their paths below the data root."""
    dataset = Path(places.dataset)
    files = [path for path in (weights.path, *places.plugins) if path is not None]
    return {
        **{file: file.name for file in files},
        **({dataset: dataset.name} if dataset.is_absolute() else {}),
        **{places.cache: "<cache>", results.resolve(): "<results>", places.data_root: HERE},
    }
