"""What the suite knows about a dataset beyond its prepared folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset; its prepared folder is `<data root>/<name>/{train,val,test}/<class>/`.

    Attributes:
        name: Name on the command line and of the folder.
        title: Name in tables and plots.
        classes: Folder names in class order.
        mean: Normalisation mean per RGB channel, of pixels in [0, 1].
        std: Normalisation standard deviation per RGB channel.
        metric: Headline metric.
        epochs: Default number of epochs.
        batch_size: Default images a step.
        synthetic: Whether the images are generated; never to be mistaken for clinical data.
        url: Where the raw images come from.
        licence: Terms of the images.
        citation: What to cite.
        expected_counts: Images of each class in all splits together; None where the prepared folder is the user's own.
        generate: Writes the whole dataset into an empty folder; None where the user must prepare it.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    metric: str = "auc"
    epochs: int = 20
    batch_size: int = 16
    synthetic: bool = False
    url: str = ""
    licence: str = ""
    citation: str = ""
    expected_counts: dict[str, int] | None = None
    generate: Callable[[Path], None] | None = None
