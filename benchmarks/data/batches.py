"""Batches of a split: views and features by name, read ahead by a thread, prepared on the device."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.data.augment import Preprocessing, draw_for_views
from benchmarks.features.cache import FeatureRows, ForEach
from benchmarks.images.decode import num_workers

READ_AHEAD = 2  # batches
# Smaller batches are read in place, as many at once as this holds: a thread's turn takes longer than reading them.
SMALL_BYTES = 2**22
Batch = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]  # views, features and labels, on the host


class Images(Protocol):
    """Stored images of one side `(n, 3, side, side)`, uint8: an array, or what reads and checks like an image store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of them."""

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[Any]:
        """Some of them `(B, 3, side, side)`."""


@dataclass(frozen=True)
class Split:
    """The samples of one split, and the stored arrays in which row i belongs to sample i unless `rows` says otherwise.

    Attributes:
        labels: Class indices `(n,)`, or findings `(n, C)`: 0, 1, nan where that is not known.
        views: By input name.
        features: Precomputed features; None where there are none.
        fixed_views: Names of the views that are never augmented, since features of theirs may be precomputed.
        rows: Of each sample `(n,)`, where a part of what is stored is used.
        num_drawn: Images of a training epoch; None for each sample once.
    """

    labels: NDArray[Any]
    views: Mapping[str, Images]
    features: FeatureRows | None = None
    fixed_views: frozenset[str] = frozenset()
    rows: NDArray[np.int64] | None = None
    num_drawn: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sample_bytes(self) -> int:
        """Bytes of what is stored of a sample: views and features."""
        views = sum(int(np.prod(store.shape[1:])) for store in self.views.values())
        return views + (0 if self.features is None else self.features.sample_bytes)

    @property
    def epoch_images(self) -> int:
        """Images of a training epoch, those of an incomplete last batch included."""
        return len(self) if self.num_drawn is None else self.num_drawn

    def only(self, rows: NDArray[np.int64], keep_steps: bool) -> "Split":
        """Some samples of a whole split; `keep_steps` has an epoch draw as many images as one of the whole does."""
        return replace(self, labels=self.labels[rows], rows=rows, num_drawn=len(self) if keep_steps else None)


def training_order(
    num_samples: int,
    batch_size: int,
    generator: torch.Generator,
    num_drawn: int | None = None,
    weights: Tensor | None = None,
) -> list[NDArray[np.int64]]:
    """Sample indices of an epoch's batches, shuffled; an incomplete last batch is dropped.

    Args:
        num_samples: Of the split.
        batch_size: Samples a batch.
        generator: All that it draws from.
        num_drawn: Samples of the epoch, None for each once: what is more is another pass, shuffled anew.
        weights: How likely each sample is at every draw `(num_samples,)`, with replacement; None for passes.
    """
    num_drawn = num_samples if num_drawn is None else num_drawn
    if weights is not None:
        drawn = torch.multinomial(weights, num_drawn, replacement=True, generator=generator)
    else:
        passes = [torch.randperm(num_samples, generator=generator) for _ in range(-(-num_drawn // num_samples))]
        drawn = torch.cat(passes)[:num_drawn]
    order = drawn.numpy()
    return [order[start : start + batch_size] for start in range(0, num_drawn - batch_size + 1, batch_size)]


def sequential_order(num_samples: int, batch_size: int) -> list[NDArray[np.int64]]:
    """Sample indices of all batches in order; the last may be smaller."""
    return [np.arange(start, min(start + batch_size, num_samples)) for start in range(0, num_samples, batch_size)]


def iterate(
    split: Split, order: Sequence[NDArray[np.int64]], preprocessing: Preprocessing, device: torch.device, augment: bool
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yields each batch's inputs by name and its labels, on the device; the next ones are read meanwhile.

    When the next batch is asked for, this one is no longer held here: a caller who has let go of it too has one batch
    on the device at a time.

    Args:
        split: What to read.
        order: Sample indices of each batch.
        preprocessing: Augments and normalises the views.
        device: Where batches go.
        augment: Whether views are augmented, but for the fixed ones; all views of an image alike.
    """
    for batches in _readings(split, order, pin=device.type == "cuda"):
        while batches:
            views, features, labels = batches.popleft()
            augmented = views.keys() - split.fixed_views if augment else ()
            drawn = draw_for_views(len(labels), {name: views[name].shape[-1] for name in augmented})
            inputs = {
                name: preprocessing(view.to(device, non_blocking=True), drawn.get(name)) for name, view in views.items()
            }
            inputs |= {name: feature.to(device, non_blocking=True) for name, feature in features.items()}
            yield inputs, labels.to(device, non_blocking=True)
            del inputs, views, features


def _readings(split: Split, order: Sequence[NDArray[np.int64]], pin: bool) -> Iterator[deque[Batch]]:
    """All batches in order, small ones several at a time."""
    at_once = SMALL_BYTES // max(1, max(map(len, order), default=0) * split.sample_bytes)
    if at_once > 1:
        for start in range(0, len(order), at_once):
            yield _read(split, order[start : start + at_once], pin, map)
        return
    with ThreadPoolExecutor(max_workers=1) as reader, ThreadPoolExecutor(num_workers()) as pool:
        pending = deque(reader.submit(_read, split, [indices], pin, pool.map) for indices in order[:READ_AHEAD])
        for position in range(len(order)):
            batches = pending.popleft().result()
            if position + READ_AHEAD < len(order):
                pending.append(reader.submit(_read, split, [order[position + READ_AHEAD]], pin, pool.map))
            yield batches


def _read(split: Split, batches: Sequence[NDArray[np.int64]], pin: bool, for_each: ForEach) -> deque[Batch]:
    """Reads some batches at once; each is a part of the tensors that they share."""
    indices, sizes = np.concatenate(batches), [len(batch) for batch in batches]
    labels = torch.from_numpy(split.labels[indices])
    indices = indices if split.rows is None else split.rows[indices]
    views = {name: torch.from_numpy(np.asarray(array[indices])) for name, array in split.views.items()}
    if pin:
        views = {name: view.pin_memory() for name, view in views.items()}
    features = split.features.read(indices, pin, for_each) if split.features is not None else {}

    def parts_of(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        parts = {name: tensor.split(sizes) for name, tensor in tensors.items()}
        return ({name: tensors[place] for name, tensors in parts.items()} for place in range(len(sizes)))

    return deque(zip(parts_of(views), parts_of(features), labels.split(sizes), strict=True))
