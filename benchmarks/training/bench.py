"""What a training works with: model, data preparation, device, and who is told of its progress."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.config import RunConfig
from benchmarks.data.augment import Preprocessing
from benchmarks.training.clock import Clock
from benchmarks.training.peak_memory import PhaseMemory
from benchmarks.training.step import extraction_step
from methods.contract import IMAGE, Recipe

Emit = Callable[..., None]


@dataclass
class Bench:
    """What the loop works with.

    Attributes:
        config: The run's settings.
        model: The trainable part, on the device.
        extractor: The frozen part, on the device, where it runs in every step; else None.
        recipe: How the model trains.
        preprocessing: Augments and normalises views.
        classes: Names of the classes.
        device: Where all of it lies.
        clock: Takes the seconds of each part.
        memory: Measures memory phases.
        emit: Receives progress events.
        ordered: Whether the classes are grades, in their order.
    """

    config: RunConfig
    model: nn.Module
    extractor: nn.Module | None
    recipe: Recipe
    preprocessing: Preprocessing
    classes: Sequence[str]
    device: torch.device
    clock: Clock
    memory: PhaseMemory
    emit: Emit
    ordered: bool = False

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch's views as the model's inputs: a live extractor turns its image into features."""
        if self.extractor is None:
            return batch
        image = batch.pop(IMAGE)
        return batch | extraction_step(self.extractor, image, self.config.precision, self.device.type)

    def synchronize(self) -> None:
        """Waits for the device, so that host clocks tell the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
